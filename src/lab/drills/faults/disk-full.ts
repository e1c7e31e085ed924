import { keys } from '#core/ha/keys.ts';
import type { ReplicaRecord } from '#core/replica/records.ts';
import { probeGuest, waitReplicated } from '#lab/drills/drill-guests.ts';
import { readValue, waitUntil } from '#lab/drills/drill-store.ts';
import { createJudge, type FaultResult, mustBeUndisturbed, type Scene, settle, waitSpeaking } from '#lab/drills/faults/scene.ts';
import { runInNode, startService, stopService } from '#lab/lab.ts';

/** How much room the copy is left with, and how stale it must get to prove that the disk was really full. */
const roomBytes = 3 << 20;
const staleMs = 15_000;

/** The disk that holds one copy becomes full, then gets room again. */
export async function fillReplicaDisk(scene: Scene): Promise<FaultResult> {
  const judge = createJudge();
  const { vmid } = probeGuest;
  const before = await settle(scene);
  const [full, other] = before.others as [string, string];
  await stopService(scene.lab, full, 'agent');
  await putOnSmallDisk(scene.lab, full, vmid);
  await startService(scene.lab, full, 'agent');
  const stale = await waitUntil(`the copy on ${full} to get stale`, 120_000, async () => {
    const copy = await readValue<ReplicaRecord>(scene.store, keys.replica(vmid, full));
    return copy !== null && Date.now() - copy.pointAtMs > staleMs ? copy : null;
  });
  await waitReplicated(scene.store, vmid, before.generation, [other], 60_000, Date.now());
  const during = await waitSpeaking(scene, Date.now());
  mustBeUndisturbed(before.run, during, judge);
  const roomAtMs = Date.now();
  await node(scene.lab, full, ['mount', '-o', 'remount,size=2G', `/var/lib/holdfast/dir/${vmid}`]);
  const [fresh] = await waitReplicated(scene.store, vmid, before.generation, [full], 120_000, roomAtMs);
  judge.must(
    fresh !== undefined && fresh.point.seq > stale.point.seq,
    `the copy on ${full} went from point ${stale.point.seq} to ${fresh?.point.seq}`,
  );
  await stopService(scene.lab, full, 'agent');
  await takeOffSmallDisk(scene.lab, full, vmid);
  await startService(scene.lab, full, 'agent');
  const after = await waitSpeaking(scene, Date.now());
  mustBeUndisturbed(before.run, after, judge);
  return {
    fault: 'disk-full',
    promise:
      'the disk of one copy is full: the guest notices nothing, the other copy goes on, the full one keeps its last whole point',
    figures: { staleCopyPoint: stale.point.seq, freshAfterMs: Date.now() - roomAtMs, longestWriteMs: after.maxWriteMs },
    broken: judge.broken,
  };
}

/** Moves the copy's folder onto a disk of its own (tmpfs) that has hardly any room left; its agent does not run meanwhile. */
async function putOnSmallDisk(lab: string, name: string, vmid: number): Promise<void> {
  const folder = `/var/lib/holdfast/dir/${vmid}`;
  const script = `set -e
    used=$(du -sB1 "$1" | cut -f1)
    mkdir -p /var/lib/holdfast/small
    mount -t tmpfs -o "size=$((used + $2)),mode=$(stat -c %a "$1"),uid=$(stat -c %u "$1"),gid=$(stat -c %g "$1")" tmpfs /var/lib/holdfast/small
    cp -a --sparse=always "$1/." /var/lib/holdfast/small/
    mount --move /var/lib/holdfast/small "$1"`;
  await node(lab, name, ['sh', '-c', script, 'sh', folder, String(roomBytes)]);
}

/** The copy goes back to the node's own disk, as it is now. */
async function takeOffSmallDisk(lab: string, name: string, vmid: number): Promise<void> {
  const script = `set -e
    mount --make-private "$1" 2>/dev/null || :
    mount --move "$1" /var/lib/holdfast/small
    find "$1" -mindepth 1 -delete
    cp -a --sparse=always /var/lib/holdfast/small/. "$1/"
    umount /var/lib/holdfast/small
    rmdir /var/lib/holdfast/small`;
  await node(lab, name, ['sh', '-c', script, 'sh', `/var/lib/holdfast/dir/${vmid}`]);
}

async function node(lab: string, name: string, argv: string[]): Promise<void> {
  const done = await runInNode(lab, name, argv, { deadlineMs: 60_000 });
  if (done.code !== 0) throw new Error(`${argv[0]} on ${name} ended with ${done.code}: ${done.stderr}`);
}
