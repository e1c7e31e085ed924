import type { GuestBackupRecord } from '#core/guest-backup/records.ts';

/** Backups of which people should hear without asking: the last try failed, or older ones were not thinned out. One line each. */
export function listBackupTroubles(
  records: readonly GuestBackupRecord[],
  nowMs: number,
  formatDuration: (ms: number) => string,
): string[] {
  const age = (atMs: number): string => formatDuration(Math.max(0, nowMs - atMs));
  return records.flatMap(({ vmid, target, last, failed }) => {
    const newest = last === null ? 'there is none there yet' : `the newest there is ${age(last.pointAtMs)} old`;
    if (failed !== null)
      return [`guest ${vmid}: backup to ${target} FAILED ${age(failed.atMs)} ago (${failed.because}); ${newest}`];
    if (last?.notThinned === undefined) return [];
    return [`guest ${vmid}: older backups on ${target} were not thinned out: ${last.notThinned}`];
  });
}
