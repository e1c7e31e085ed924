import { toWall } from '#adapters/clock/wall-clock.ts';
import { randomBytes } from 'node:crypto';
import { formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { BackupJob, GuestBackupRecord } from '#core/guest-backup/records.ts';
import { planJobs, type DueBackup } from '#core/guest-backup/plan-jobs.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaResource } from '#core/ha/records.ts';
import { requestId, type RequestOrder, type RequestRecord } from '#core/ha/requests.ts';
import type { Clock } from '#ports/clock.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import type { Store } from '#ports/store.ts';
import type { BackupDesk } from '#programs/agent/backup-desk.ts';
import type { World } from '#programs/agent/world.ts';

/**
 * Begins what jobs want of the guests that are at home on this node. The begin is recorded before anything is done, and the end with how it went, so the
 * next agent, or the next home, sees what is left of a run.
 */
export type BackupJobsOptions = {
  self: string;
  store: Store;
  world: World;
  clock: Clock;
  running: () => RunningGuest[];
  desk: BackupDesk;
  log: (text: string) => void;
};

export async function runBackupJobs(options: BackupJobsOptions, signal: AbortSignal): Promise<void> {
  const { world, clock, desk, log } = options;
  while (!signal.aborted) {
    await pause(limits.backupJobsLookMs, signal);
    if (!world.isReady()) continue;
    try {
      const due = planJobs({
        jobs: world.list<BackupJob>(prefixes.backupJobs).map(({ value }) => value),
        guests: listGuests(options),
        records: world.list<GuestBackupRecord>(prefixes.guestBackups).map(({ value }) => value),
        underWay: (vmid) => desk.isUnderWay(vmid),
        nowMs: clock.wallMs(),
        toWall,
      });
      // Some at a time: each reads a disk and compresses it.
      for (const one of due.slice(0, Math.max(0, limits.backupsAtOnce - desk.countUnderWay()))) void runOne(options, one, signal);
    } catch (error) {
      log(`jobs cannot be looked at: ${formatErrorChain(error)}`);
    }
  }
}

/** Those that run here, and those that are at home here and are to be still. */
function listGuests({ self, world, running }: BackupJobsOptions): number[] {
  const runs = running().map((guest) => guest.vmid);
  const isStill = ({ vmid, home, givenUp }: GuestRecord): boolean => {
    const want = world.read<HaResource>(keys.haResource(vmid))?.value.want;
    return home === self && givenUp === undefined && (want === 'stopped' || want === 'disabled') && !runs.includes(vmid);
  };
  const still = world.list<GuestRecord>(prefixes.guests).filter(({ value }) => isStill(value));
  return [...runs, ...still.map(({ value }) => value.vmid)];
}

async function runOne(options: BackupJobsOptions, { job, vmid }: DueBackup, signal: AbortSignal): Promise<void> {
  const { desk, log } = options;
  const { id, target, freeze, notes, rateBytesPerSecond, keep, test } = job;
  try {
    const order = { vmid, target, freeze, notes, rateBytesPerSecond, job: id, keep };
    const lines = await desk.backUp(order, async () => {}, signal);
    for (const line of lines) log(`job ${id}: ${line}`);
    if (test !== null) await askFor(options, { kind: 'restore-test', vmid, target, probe: test });
  } catch (error) {
    log(`job ${id}, guest ${vmid}: ${formatErrorChain(error)}`); // recorded by the desk
  }
}

/** Asks this node for work like an operator does, so that it is seen, and can be ended, like any other. */
async function askFor({ self, store, clock }: BackupJobsOptions, order: RequestOrder): Promise<void> {
  const id = requestId(clock.wallMs(), randomBytes(4).toString('hex'));
  const request: RequestRecord = { id, node: self, createdAtMs: clock.wallMs(), ...order, state: 'waiting' };
  await store.commit([{ key: keys.request(id), modRevision: 0n }], [{ key: keys.request(id), value: JSON.stringify(request) }]);
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    function done(): void {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    }
    signal.addEventListener('abort', done, { once: true });
  });
}
