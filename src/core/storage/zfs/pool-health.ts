import { formatSize } from '#core/text/size.ts';
import type { PoolStatus, PoolUse } from './pool-status.ts';

/** Above this no copy of another guest is taken in, so that the guests that run here keep room … */
export const noNewCopiesPercent = 85;
/** … and above this no snapshot is taken any more, for each pins what guests overwrite. */
export const noSnapshotsPercent = 92;

const dayMs = 86_400_000;
/** A month and a bit: a scrub that is put off once is no alarm. */
const scrubLateMs = 40 * dayMs;

export type PoolProblem = { what: string; next: string };

export type PoolHealth = {
  /** fine: nothing to do. worn: it works, somebody must look. lost: guests' disks cannot be used. */
  level: 'fine' | 'worn' | 'lost';
  problems: PoolProblem[];
};

/** What is wrong with a pool, and what a person should do about each thing. `scrubbedAtMs`: null, never seen. */
export function judgePool(status: PoolStatus, use: PoolUse, forecast: CapacityForecast | null): PoolHealth {
  const problems: PoolProblem[] = [];
  const isLost = ['FAULTED', 'SUSPENDED', 'UNAVAIL', 'REMOVED'].includes(status.state);
  if (isLost) {
    problems.push({
      what: `${status.name} is ${status.state}: too many of its disks are gone`,
      next: 'plug the disks in again, then: zpool clear, or restart the server',
    });
  }
  const resilver = status.scan?.kind === 'resilver' && status.scan.state === 'running' ? status.scan : null;
  for (const device of listBadDisks(status)) {
    const errors = device.errors === 0 ? '' : `, ${device.errors} errors`;
    const next =
      resilver === null
        ? `replace it: holdfast pool replace ${status.name} ${device.name} NEW-DISK`
        : 'wait for the resilver that runs';
    problems.push({ what: `disk ${device.name} is ${device.state}${errors}`, next });
  }
  if (resilver !== null)
    problems.push({
      what: `a disk is being filled again, ${Math.round(resilver.progress * 100)} % done`,
      next: 'wait; one more failed disk now would lose the pool',
    });
  if (status.lostData !== null)
    problems.push({
      what: `data is damaged beyond repair: ${status.lostData}`,
      next: 'zpool status -v names it; bring that guest back from a copy on another node',
    });
  problems.push(...judgeUse(status.name, use, forecast));
  return { level: isLost ? 'lost' : problems.length > 0 ? 'worn' : 'fine', problems };
}

/** Disks that do not work as they should: by their state or by their errors. Groups are told by their disks. */
export function listBadDisks(status: PoolStatus): { name: string; state: string; errors: number }[] {
  return status.devices
    .filter((device, index) => device.depth > 0 && (status.devices[index + 1]?.depth ?? 0) <= device.depth)
    .map(({ name, state, readErrors, writeErrors, checksumErrors }) => ({
      name,
      state,
      errors: readErrors + writeErrors + checksumErrors,
    }))
    .filter((device) => !['ONLINE', 'AVAIL', 'INUSE'].includes(device.state) || device.errors > 0);
}

function judgeUse(pool: string, use: PoolUse, forecast: CapacityForecast | null): PoolProblem[] {
  const next = `delete guests or release tails that are not needed (holdfast replication tails), or add room to ${pool}`;
  if (use.usedPercent >= noSnapshotsPercent) {
    return [{ what: `${pool} is ${use.usedPercent} % full: its guests are not copied any more`, next }];
  }
  if (use.usedPercent >= noNewCopiesPercent) {
    return [{ what: `${pool} is ${use.usedPercent} % full: it takes no copies of further guests`, next }];
  }
  if (forecast?.daysLeft !== undefined && forecast.daysLeft !== null && forecast.daysLeft < 30) {
    const growth = formatSize(forecast.bytesPerDay);
    return [
      { what: `${pool} reaches ${noNewCopiesPercent} % in ${Math.floor(forecast.daysLeft)} days at ${growth} a day`, next },
    ];
  }
  return [];
}

/** Why nothing new may come; null: it may. */
export function refuseCopy(use: Pick<PoolUse, 'name' | 'usedPercent'>, isFirst: boolean): string | null {
  const limit = isFirst ? noNewCopiesPercent : noSnapshotsPercent;
  if (use.usedPercent < limit) return null;
  return `pool ${use.name} is ${use.usedPercent} % full; from ${limit} % on it takes no ${isFirst ? 'new copies' : 'points'}. Make room on it, or add some`;
}

export type UseSample = { atMs: number; allocatedBytes: number };
/** `daysLeft` until the first limit; null: at this pace never. */
export type CapacityForecast = { bytesPerDay: number; daysLeft: number | null };

/** Growth by the straight line that fits best through samples of a day or more; null: they tell too little. */
export function forecastUse(samples: readonly UseSample[], sizeBytes: number): CapacityForecast | null {
  const [first, last] = [samples[0], samples.at(-1)];
  if (first === undefined || last === undefined || samples.length < 3 || last.atMs - first.atMs < dayMs || sizeBytes === 0)
    return null;
  const days = samples.map((sample) => (sample.atMs - first.atMs) / dayMs);
  const meanDay = mean(days);
  const meanBytes = mean(samples.map((sample) => sample.allocatedBytes));
  let [above, below] = [0, 0];
  for (const [index, sample] of samples.entries()) {
    const day = (days[index] ?? 0) - meanDay;
    above += day * (sample.allocatedBytes - meanBytes);
    below += day * day;
  }
  const bytesPerDay = Math.round(above / below);
  const leftBytes = (sizeBytes * noNewCopiesPercent) / 100 - last.allocatedBytes;
  if (bytesPerDay <= 0) return { bytesPerDay, daysLeft: null };
  return { bytesPerDay, daysLeft: Math.max(0, leftBytes / bytesPerDay) };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Whether the monthly look at every block is due. A pool that never was looked at counts from its first sight. */
export function planScrub(
  facts: {
    lastEndedAtMs: number | null;
    firstSeenAtMs: number;
    isScanRunning: boolean;
    isOtherNodeScrubbing: boolean;
    everyDays: number;
  },
  now: { atMs: number; hour: number },
): 'start' | 'wait' {
  if (facts.isScanRunning || facts.isOtherNodeScrubbing) return 'wait';
  const sinceMs = now.atMs - (facts.lastEndedAtMs ?? facts.firstSeenAtMs);
  const isQuietHour = now.hour >= 1 && now.hour < 5;
  if (sinceMs >= facts.everyDays * dayMs && isQuietHour) return 'start';
  return sinceMs >= Math.max(scrubLateMs, facts.everyDays * dayMs * 1.3) ? 'start' : 'wait';
}
