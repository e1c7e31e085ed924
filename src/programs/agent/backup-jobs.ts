import { randomBytes } from 'node:crypto';
import { pause } from '#programs/pause.ts';
import { toWall } from '#adapters/clock/wall-clock.ts';
import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { planJobs, type DueBackup } from '#core/guest-backup/plan-jobs.ts';
import { type BackupJob, type GuestBackupRecord, type JobRun, jobRunOf } from '#core/guest-backup/records.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaResource } from '#core/ha/records.ts';
import { formatRequest, requestId, type RequestOrder, type RequestRecord } from '#core/ha/requests.ts';
import type { Clock } from '#ports/clock.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import type { Store } from '#ports/store.ts';
import type { BackupDesk } from '#programs/agent/backup-desk.ts';
import { readRecord, type World } from '#programs/agent/world.ts';

/**
 * Asks this node for the backups that jobs want of the guests that are at home on it, as an operator would: so each is seen with its progress, can be
 * aborted, and is begun again by the next agent. Whoever asked removes a request that has ended; those of an agent that died are removed by the next one.
 *
 *   due ──> request, with the job's name ──> carried out (requests.ts) ──> done: a restore test is asked for ──> removed
 */
export type BackupJobsOptions = {
  self: string;
  store: Store;
  world: World;
  clock: Clock;
  running: () => RunningGuest[];
  desk: Pick<BackupDesk, 'isUnderWay'>;
  log: (text: string) => void;
};

export async function runBackupJobs(options: BackupJobsOptions, signal: AbortSignal): Promise<void> {
  const { world, clock, log } = options;
  const asking = new Set<number>();
  const asked = new Set<string>();
  /** Runs that somebody withdrew, by job and guest: they are not asked for again before the next is due. */
  const withdrawn = new Map<string, number>();
  while (!signal.aborted) {
    await pause(limits.backupJobsLookMs, signal);
    if (!world.isReady()) continue;
    try {
      const open = listOpen(options);
      const isBusy = (vmid: number): boolean => asking.has(vmid) || open.has(vmid) || options.desk.isUnderWay(vmid);
      const due = planJobs({
        jobs: world.list<BackupJob>(prefixes.backupJobs).map(({ value }) => value),
        guests: listGuests(options),
        records: world.list<GuestBackupRecord>(prefixes.guestBackups).map(({ value }) => value),
        underWay: isBusy,
        nowMs: clock.wallMs(),
        toWall,
      }).filter(({ job, vmid, dueAtMs }) => (withdrawn.get(`${job.id}/${vmid}`) ?? 0) < dueAtMs);
      // Some at a time: each reads a disk and compresses it.
      const free = limits.backupsAtOnce - new Set([...asking, ...open]).size;
      for (const one of due.slice(0, Math.max(0, free))) {
        asking.add(one.vmid);
        const onWithdrawn = (): void => void withdrawn.set(`${one.job.id}/${one.vmid}`, one.dueAtMs);
        void runOne(options, one, { asked, onWithdrawn, signal }).finally(() => asking.delete(one.vmid));
      }
      for (const left of listOwn(options)) if (isEndedRun(left) && !asked.has(left.id)) await takeAnswer(options, left);
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

function listOwn({ self, world }: BackupJobsOptions): RequestRecord[] {
  return world.list<RequestRecord>(prefixes.requests).flatMap(({ value }) => (value.node === self ? [value] : []));
}

/** Guests whose backup this node has been asked for. */
function listOpen(options: BackupJobsOptions): Set<number> {
  const isOpen = ({ state }: RequestRecord): boolean => state === 'waiting' || state === 'running';
  return new Set(listOwn(options).flatMap((one) => (one.kind === 'guest-backup' && isOpen(one) ? [one.vmid] : [])));
}

function isEndedRun(request: RequestRecord): boolean {
  return jobRunOf(request) !== null && (request.state === 'done' || request.state === 'failed');
}

/** `asked`: the requests that somebody waits for. `onWithdrawn`: the backup is not wanted. */
type Asking = { asked: Set<string>; onWithdrawn: () => void; signal: AbortSignal };

async function runOne(options: BackupJobsOptions, { job, vmid, tries }: DueBackup, asking: Asking): Promise<void> {
  const { target, freeze, notes, rateBytesPerSecond, keep, test } = job;
  const run: JobRun = { job: job.id, tries, keep };
  try {
    const end = await askFor(options, { kind: 'guest-backup', vmid, target, freeze, notes, rateBytesPerSecond, ...run }, asking);
    if (end === 'withdrawn') asking.onWithdrawn();
    if (end === 'done' && test !== null)
      await askFor(options, { kind: 'restore-test', vmid, target, probe: test, ...run }, asking);
  } catch (error) {
    options.log(`job ${job.id}, guest ${vmid}: ${formatErrorChain(error)}`);
  }
}

/** Asks this node, waits for the end and removes the request. What it says is logged, and how a backup went is recorded by the desk. */
async function askFor(
  options: BackupJobsOptions,
  order: RequestOrder & JobRun,
  { asked, signal }: Asking,
): Promise<'done' | 'failed' | 'withdrawn' | 'unknown'> {
  const { self, store, clock } = options;
  const id = requestId(clock.wallMs(), randomBytes(4).toString('hex'));
  const request: RequestRecord = { id, node: self, createdAtMs: clock.wallMs(), ...order, state: 'waiting' };
  const key = keys.request(id);
  const outcome = await store.commit([{ key, modRevision: 0n }], [{ key, value: JSON.stringify(request) }]);
  if (outcome.kind !== 'committed')
    throw new AppError('unavailable', `${formatRequest(order)}: the store did not confirm the request; looked at again`);
  asked.add(id);
  try {
    while (!signal.aborted) {
      await pause(limits.withdrawalLookMs, signal);
      const now = await look(options, key);
      if (now === 'missing') return 'withdrawn';
      if (now === 'unknown' || (now.state !== 'done' && now.state !== 'failed')) continue;
      await takeAnswer(options, now);
      return now.state;
    }
    return 'unknown';
  } finally {
    asked.delete(id);
  }
}

/** The watch may not have come to a new request yet: that one is missing is asked of the store. */
async function look({ world, store }: BackupJobsOptions, key: string): Promise<RequestRecord | 'missing' | 'unknown'> {
  const seen = world.read<RequestRecord>(key);
  if (seen !== null) return seen.value;
  try {
    return (await readRecord<RequestRecord>(store, key))?.value ?? 'missing';
  } catch (error) {
    if (!isAppError(error)) throw error;
    return 'unknown';
  }
}

/** Logs how a job's request ended and removes it. */
async function takeAnswer({ store, log }: BackupJobsOptions, request: RequestRecord): Promise<void> {
  const head = `job ${jobRunOf(request)?.job ?? ''}: ${formatRequest(request)}`;
  if (request.state === 'failed') log(`${head}: ${request.error.message}`);
  if (request.state === 'done') for (const line of request.result) log(`${head}: ${line}`);
  await store.commit([], [{ key: keys.request(request.id), value: null }]);
}
