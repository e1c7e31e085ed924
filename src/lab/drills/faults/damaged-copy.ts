import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { comparePoints } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaEvent } from '#core/ha/records.ts';
import { defaultReplicationJob, type ReplicaRecord, type ReplicationJob } from '#core/replica/records.ts';
import { probeGuest, waitHeard, waitReplicated, waitRunning } from '#lab/drills/drill-guests.ts';
import { changeValue, listValues } from '#lab/drills/drill-store.ts';
import { copyFolder, listLayers } from '#lab/drills/faults/copy-folder.ts';
import {
  createJudge,
  delay,
  type FaultResult,
  mustNeverDouble,
  readWitness,
  type Scene,
  settle,
} from '#lab/drills/faults/scene.ts';
import { waitServing } from '#lab/drills/node-waits.ts';
import { plug, startService, stopService } from '#lab/lab.ts';

/** The freshest copy is damaged on its disk, then the home loses power: the damaged one is declined, the other one is used. */
export async function damageCopy(scene: Scene): Promise<FaultResult> {
  const judge = createJudge();
  const { vmid } = probeGuest;
  const before = await settle(scene);
  await setEnabled(scene, false);
  await delay(4_000); // a cycle under way ends
  const copies = (await listValues<ReplicaRecord>(scene.store, `${prefixes.replicas}${vmid}/`))
    .filter((copy) => copy.node !== before.home)
    .sort((a, b) => comparePoints(b.point, a.point));
  const [freshest, next] = copies as [ReplicaRecord, ReplicaRecord];
  const damaged = damageNewestLayer(scene.lab, freshest.node, vmid);
  const cut = await plug(scene.lab, before.home, 'off');
  const status = await waitRunning(scene.store, vmid, before.generation + 1, 90_000);
  judge.must(status.node === next.node, `the guest runs on ${status.node}; the sound copy is on ${next.node}`);
  await waitHeard(scene.collector, vmid, status.generation);
  judge.must((await readWitness(scene)).runs.at(-1)?.consistent === true, 'the copy was no whole point');
  const events = await listValues<HaEvent>(scene.store, prefixes.haEvents);
  const declined = events.find((event) => event.kind === 'declined' && event.atMs >= (cut?.atMs ?? 0));
  judge.must(declined?.text.includes(damaged) === true, `no refusal names ${damaged}: ${declined?.text}`);
  await heal(scene, freshest.node, before.home);
  await waitReplicated(scene.store, vmid, status.generation, [freshest.node, before.home], 180_000);
  await mustNeverDouble(scene, judge);
  return {
    fault: 'damaged-copy',
    promise: 'the freshest copy does not verify: it is refused by name and the next freshest is used',
    figures: {
      declinedBy: declined?.node ?? 'nobody',
      startedAfterMs: (status.qemuStartedAtMs ?? Number.NaN) - (cut?.atMs ?? Number.NaN),
      generation: status.generation,
    },
    broken: judge.broken,
  };
}

async function setEnabled(scene: Scene, enabled: boolean): Promise<void> {
  const { vmid } = probeGuest;
  await changeValue<ReplicationJob>(scene.store, keys.replicationJob(vmid), (now) => ({
    ...(now ?? { vmid, ...defaultReplicationJob }),
    enabled,
  }));
}

/** Overwrites the first bytes of the newest layer of disk0; returns the file's name. */
function damageNewestLayer(lab: string, node: string, vmid: number): string {
  const { folder, layers } = listLayers(lab, node, vmid, 'disk0');
  const file = layers.at(-1);
  if (file === undefined) throw new Error(`${node} holds no layer of disk0`);
  const fd = openSync(join(folder, file), 'r+');
  writeSync(fd, Buffer.from('damaged!'), 0, 8, 0);
  closeSync(fd);
  return file;
}

/** What docs/recovery.md says for a copy that does not verify: away with it, the next cycle compares and sends it anew. */
async function heal(scene: Scene, damagedNode: string, lostNode: string): Promise<void> {
  await plug(scene.lab, lostNode, 'on');
  await stopService(scene.lab, damagedNode, 'agent');
  rmSync(copyFolder(scene.lab, damagedNode, probeGuest.vmid), { recursive: true });
  await startService(scene.lab, damagedNode, 'agent');
  await setEnabled(scene, true);
  await waitServing(scene.store, scene.nodes);
}
