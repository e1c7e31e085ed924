import { keys } from '#core/ha/keys.ts';
import type { PoolRecord } from '#core/storage/zfs/pool-record.ts';
import { readValue, waitUntil } from '#lab/drills/drill-store.ts';
import { pool } from '../founding.ts';
import { fullLimits } from '../full-limits.ts';
import type { MachineShell } from '../machine-shell.ts';
import { findHome, readWitness, type Stage } from '../stage.ts';

export type DiskResult = {
  node: string;
  pulled: string;
  inserted: string;
  pulledToDegradedMs: number;
  /** Until the node told the cluster, so that `holdfast status` shows it. */
  pulledToToldMs: number;
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
  const told = await waitTold(store, node, 'worn');
  const pulledToToldMs = Math.round(told.atMs - atMs);
  say(`${node}: tells ${(pulledToToldMs / 1000).toFixed(1)} s after the disk was pulled: ${told.health.problems[0]?.what}`);
  const fresh = await machine.insertDisk(disk.id, `${node}-disk4`);
  const path = `/dev/disk/by-id/virtio-${fresh.serial}`;
  const isSeen = async (): Promise<boolean> => (await shell.run(`test -e ${path}`)).code === 0;
  await waitUntil(`${node} to see its new disk`, fullLimits.commandMs, isSeen, fullLimits.lookMs);
  const startMs = performance.now();
  await shell.must(`holdfast pool replace ${pool} virtio-${disk.serial} virtio-${fresh.serial}`);
  await waitHealth(shell, 'ONLINE');
  const resilverMs = Math.round(performance.now() - startMs);
  const resilvered = /scan: (resilvered .*)/.exec(await shell.must(`zpool status ${pool}`))?.[1] ?? '';
  say(`${node}: ${resilvered}`);
  await waitTold(store, node, 'fine');
  const after = (await readWitness(collector))?.runs.at(-1);
  const result: DiskResult = {
    node,
    pulled: disk.serial,
    inserted: fresh.serial,
    pulledToDegradedMs,
    pulledToToldMs,
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

/** What the node says of its pool in the cluster's record. */
function waitTold(store: Stage['store'], node: string, level: PoolRecord['health']['level']): Promise<PoolRecord> {
  const look = async (): Promise<PoolRecord | null> => {
    const told = await readValue<PoolRecord>(store, keys.nodePool(node));
    return told?.health.level === level ? told : null;
  };
  return waitUntil(`${node} to say that its pool is ${level}`, fullLimits.resilverMs, look, fullLimits.lookMs);
}

async function waitHealth(shell: MachineShell, health: 'ONLINE' | 'DEGRADED'): Promise<void> {
  const look = async (): Promise<boolean> => {
    const [now, scan] = (
      await shell.must(`zpool list -H -o health ${pool}; zpool status ${pool} | grep -c 'in progress'; true`)
    ).split('\n');
    return now === health && (health === 'DEGRADED' || scan === '0');
  };
  await waitUntil(`pool ${pool} to be ${health}`, fullLimits.resilverMs, look, fullLimits.lookMs);
}
