import { waitUntil } from '#lab/drills/drill-store.ts';
import { pool } from '../founding.ts';
import { fullLimits } from '../full-limits.ts';
import type { MachineShell } from '../machine-shell.ts';
import { findHome, readWitness, type Stage } from '../stage.ts';

export type DiskResult = {
  node: string;
  pulled: string;
  inserted: string;
  pulledToDegradedMs: number;
  resilverMs: number;
  resilvered: string;
  guestIoErrors: number;
  guestMaxWriteMs: number;
  broken: string[];
};

/** A disk is pulled out of the pool on which the guest writes: the guest goes on; a new disk takes its place and is resilvered. */
export async function playDisk({ room, store, collector, say }: Stage): Promise<DiskResult> {
  const { node } = await findHome(store);
  const machine = room.byName(node);
  const { shell } = machine;
  const disk = machine.disks[1]!;
  const before = (await readWitness(collector))?.runs.at(-1);
  say(`${node}: pulling disk ${disk.serial} out of its pool`);
  const { atMs } = await machine.pullDisk(disk.id);
  await waitHealth(shell, 'DEGRADED');
  const pulledToDegradedMs = Math.round(Date.now() - atMs);
  say(`${node}: the pool is degraded after ${(pulledToDegradedMs / 1000).toFixed(1)} s`);
  const fresh = await machine.insertDisk(disk.id, `${node}-disk4`);
  const path = `/dev/disk/by-id/virtio-${fresh.serial}`;
  await waitUntil(
    `${node} to see its new disk`,
    fullLimits.commandMs,
    async () => (await shell.run(`test -e ${path}`)).code === 0,
  );
  const startMs = performance.now();
  await shell.must(`zpool replace ${pool} virtio-${disk.serial} ${path}`);
  await waitHealth(shell, 'ONLINE');
  const resilverMs = Math.round(performance.now() - startMs);
  const resilvered = /scan: (resilvered .*)/.exec(await shell.must(`zpool status ${pool}`))?.[1] ?? '';
  say(`${node}: ${resilvered}`);
  const after = (await readWitness(collector))?.runs.at(-1);
  const result: DiskResult = {
    node,
    pulled: disk.serial,
    inserted: fresh.serial,
    pulledToDegradedMs,
    resilverMs,
    resilvered,
    guestIoErrors: after?.ioErrors ?? -1,
    guestMaxWriteMs: after?.maxWriteMs ?? -1,
    broken: [],
  };
  if (after?.bootRandom !== before?.bootRandom) result.broken.push('the guest booted again');
  if (result.guestIoErrors !== 0) result.broken.push(`the guest saw ${result.guestIoErrors} I/O errors`);
  if ((after?.lastCounter ?? 0) <= (before?.lastCounter ?? 0)) result.broken.push('the guest wrote nothing meanwhile');
  if (!resilvered.includes('with 0 errors')) result.broken.push(`the new disk is not whole: ${resilvered}`);
  return result;
}

async function waitHealth(shell: MachineShell, health: 'ONLINE' | 'DEGRADED'): Promise<void> {
  await waitUntil(`pool ${pool} to be ${health}`, fullLimits.resilverMs, async () => {
    const [now, scan] = (
      await shell.must(`zpool list -H -o health ${pool}; zpool status ${pool} | grep -c 'in progress'; true`)
    ).split('\n');
    return now === health && (health === 'DEGRADED' || scan === '0');
  });
}
