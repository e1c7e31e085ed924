import { limits } from '#base/limits.ts';
import type { BackupJob, GuestBackupRecord } from '#core/guest-backup/records.ts';
import { nextCalendarEvent, parseCalendarEvent, type WallClock } from '#core/text/calendar-event.ts';

/** A guest that a job has to back up now, when it was due, and how often that has failed already. */
export type DueBackup = { job: BackupJob; vmid: number; dueAtMs: number; tries: number };

/** True when the job is to back the guest up. */
export function isSelected(job: BackupJob, vmid: number): boolean {
  return (job.guests === null || job.guests.includes(vmid)) && !job.except.includes(vmid);
}

/**
 * Which of a node's guests are to be backed up now. A run that was begun and has no end in the record (its agent died, the guest moved) is due at
 * once again. One that failed is tried again some times, ever later. A run that was missed is made up for once, however often it was due. Who waits longest
 * comes first; a guest that several jobs want is backed up for one after the other.
 */
export function planJobs(facts: {
  jobs: readonly BackupJob[];
  /** Guests that this node can back up. */
  guests: readonly number[];
  records: readonly GuestBackupRecord[];
  /** Backups that this agent itself has under way. */
  underWay: (vmid: number) => boolean;
  nowMs: number;
  toWall: (atSeconds: number) => WallClock;
}): DueBackup[] {
  const { jobs, guests, records, underWay, nowMs, toWall } = facts;
  const due = jobs.flatMap((job) => {
    if (!job.enabled || job.schedule === null) return [];
    const event = parseCalendarEvent(job.schedule);
    return guests.flatMap((vmid): DueBackup[] => {
      if (!isSelected(job, vmid) || underWay(vmid)) return [];
      const record = records.find((entry) => entry.vmid === vmid && entry.target === job.target);
      const begunAtMs = record?.jobs[job.id];
      if (begunAtMs !== undefined && !hasEnded(record, begunAtMs)) return [{ job, vmid, dueAtMs: begunAtMs, tries: 0 }];
      const sinceMs = begunAtMs ?? job.createdAtMs;
      const next = nextCalendarEvent(event, Math.floor(sinceMs / 1_000), toWall);
      if (next !== null && next * 1_000 <= nowMs) return [{ job, vmid, dueAtMs: next * 1_000, tries: 0 }];
      const retry = findRetry(job, record);
      return retry !== null && retry.dueAtMs <= nowMs ? [{ job, vmid, ...retry }] : [];
    });
  });
  const oldestFirst = due.toSorted((one, other) => one.dueAtMs - other.dueAtMs);
  return oldestFirst.filter(({ vmid }, at) => oldestFirst.findIndex((other) => other.vmid === vmid) === at);
}

function hasEnded(record: GuestBackupRecord | undefined, begunAtMs: number): boolean {
  return (record?.last?.pointAtMs ?? 0) >= begunAtMs || (record?.failed?.atMs ?? 0) >= begunAtMs;
}

/** When a run that failed is to be tried again; null: it did not, or too often. */
function findRetry(job: BackupJob, record: GuestBackupRecord | undefined): { dueAtMs: number; tries: number } | null {
  const { job: failedJob, tries = 0, atMs = 0 } = record?.failed ?? {};
  if (failedJob !== job.id || tries === 0 || tries > limits.backupRetries) return null;
  return { dueAtMs: atMs + limits.backupRetryMs * 2 ** (tries - 1), tries };
}
