import { keys } from '#core/ha/keys.ts';
import type { ReplicaRecord } from '#core/replica/records.ts';
import { readValue, waitUntil } from '#lab/drills/drill-store.ts';
import { data, dataset } from '../founding.ts';
import { fullLimits } from '../full-limits.ts';
import { findHome, type Stage, tinyGuest, waitCopies } from '../stage.ts';

export type CutSendResult = {
  from: string;
  to: string;
  /** The disk whose content travels: random, so that nothing of it is compressed away. */
  diskBytes: number;
  /** What the target had taken in when the stream was cut. */
  arrivedBytes: number;
  /** What travelled afterwards, until the copy was whole. */
  resumedBytes: number;
  cutToWholeMs: number;
  broken: string[];
};

const bulk = { vmid: 101, diskMb: 160, rate: '3M' } as const;
/** A stream of which less has arrived is not worth going on with: it would be begun anew (limits.zfsResumeBytes). */
const cutAtBytes = 88 << 20;
const mebibyte = 1 << 20;

/** A guest's first whole copy is cut off in the middle, by the death of the relay that carries it; it goes on from there by ZFS's own token. */
export async function playCutSend(stage: Stage): Promise<CutSendResult> {
  const { room, store, say } = stage;
  const { node: from } = await findHome(store);
  const { shell } = room.byName(from);
  const targets = room.machines.map(({ name }) => name).filter((name) => name !== from);
  say(`${from}: making guest ${bulk.vmid} with a disk of ${bulk.diskMb} MiB of random bytes`);
  await makeBulkGuest(stage, from);
  try {
    const { to, arrivedBytes } = await waitArrived(stage, targets);
    const atMs = Date.now();
    await shell.must('systemctl kill --kill-whom=main --signal=KILL holdfast-relay');
    say(`${from}: its relay is killed; ${to} has ${Math.round(arrivedBytes / mebibyte)} MiB`);
    await shell.must(`holdfast replication set ${bulk.vmid} --rate none`);
    await waitCopies(store, bulk.vmid, 1, [to]);
    const copy = await readValue<ReplicaRecord>(store, keys.replica(bulk.vmid, to));
    const result: CutSendResult = {
      from,
      to,
      diskBytes: bulk.diskMb * mebibyte,
      arrivedBytes,
      resumedBytes: copy?.lastCycle.bytes ?? 0,
      cutToWholeMs: Math.round(Date.now() - atMs),
      broken: [],
    };
    say(`${to} has a whole copy; ${Math.round(result.resumedBytes / mebibyte)} MiB travelled after the cut`);
    // Not all of what is on its way arrives, and a stream has words of its own: half of what was there must have been spared.
    if (result.resumedBytes > result.diskBytes - arrivedBytes / 2)
      result.broken.push(`${result.resumedBytes} bytes travelled after the cut, though ${arrivedBytes} had arrived before it`);
    return result;
  } finally {
    await removeBulkGuest(stage, from);
  }
}

async function makeBulkGuest({ room, say }: Stage, node: string): Promise<void> {
  const { shell } = room.byName(node);
  const image = `${data}/bulk.raw`;
  const deadlineMs = fullLimits.foundMs;
  const told = { deadlineMs, onLine: (line: string) => say(`${node}: ${line}`) };
  await shell.must(`head -c ${bulk.diskMb}M /dev/urandom >${image}`, { deadlineMs });
  const parts = [
    `--vmid ${bulk.vmid} --name bulk --memory 128M --disk disk0=64M --disk disk1=1M --disk disk2=${bulk.diskMb}M,import=${image}`,
    // It has nobody to tell anything, and writes once a minute.
    `--kernel probe-vmlinux --initrd probe-initrd --append 'console=ttyS0 quiet rdinit=/init hf.intervalms=60000'`,
  ];
  await shell.must(`holdfast guest create ${parts.join(' ')} --node ${node} --timeout 10m`, told);
  await shell.must(`holdfast replication set ${bulk.vmid} --interval 30m --rate ${bulk.rate} && rm ${image}`, told);
  await shell.must(`holdfast guest start ${bulk.vmid} --timeout 10m`, told);
}

/** The target that takes the stream in, once enough of it is there. */
function waitArrived({ room }: Stage, targets: string[]): Promise<{ to: string; arrivedBytes: number }> {
  const disk = `${dataset}/vm-${bulk.vmid}/disk2`;
  const look = async (): Promise<{ to: string; arrivedBytes: number } | null> => {
    for (const to of targets) {
      const { out } = await room.byName(to).shell.run(`zfs get -Hp -o value used ${disk}`);
      const arrivedBytes = Number.parseInt(out, 10);
      if (arrivedBytes >= cutAtBytes) return { to, arrivedBytes };
    }
    return null;
  };
  return waitUntil(`half of guest ${bulk.vmid} to arrive`, fullLimits.replicatedMs, look, fullLimits.lookMs);
}

/** The other scenes are about one guest. */
async function removeBulkGuest({ room, say }: Stage, node: string): Promise<void> {
  const deadlineMs = fullLimits.foundMs;
  const { shell } = room.byName(node);
  const ended = await shell.run(`holdfast guest stop ${bulk.vmid} --timeout 5m && holdfast guest delete ${bulk.vmid} --yes`, {
    deadlineMs,
  });
  if (ended.code !== 0)
    say(`${node}: guest ${bulk.vmid} could not be removed beside guest ${tinyGuest.vmid}: ${ended.err.trim()}`);
}
