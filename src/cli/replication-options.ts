import { AppError } from '#base/error.ts';
import type { ReplicationJob } from '#core/replica/records.ts';
import { shortestTailDays } from '#core/replica/tail-expiry.ts';
import { parseDuration } from '#core/text/duration.ts';
import { parseFields, parseWholeNumber } from '#core/text/fields.ts';
import { parseSize } from '#core/text/size.ts';

/** The options of `replication set` as they were typed. */
export type ReplicationOptions = {
  interval?: string;
  rate?: string;
  keep?: string;
  on?: boolean;
  off?: boolean;
  freeze?: boolean;
  keepTails?: string;
};

const shortestIntervalMs = 1_000;
const longestIntervalMs = 24 * 3_600_000;

/** Returns the job with what the options change. Raises AppError invalid, naming the option; also when nothing is to change. */
export function applyReplicationOptions(job: ReplicationJob, options: ReplicationOptions): ReplicationJob {
  if (options.on === true && options.off === true) throw new AppError('invalid', 'on: --on and --off exclude each other');
  if (Object.values({ ...options, json: undefined, config: undefined }).every((option) => option === undefined)) {
    throw new AppError(
      'invalid',
      'interval: nothing to change; give --interval, --rate, --keep, --freeze, --keep-tails, --on or --off',
    );
  }
  return {
    vmid: job.vmid,
    intervalMs: options.interval === undefined ? job.intervalMs : parseInterval(options.interval),
    rateBytesPerSecond: options.rate === undefined ? job.rateBytesPerSecond : parseRate(options.rate),
    keep: options.keep === undefined ? job.keep : parseKeep(options.keep, job.keep),
    enabled: options.on === true ? true : options.off === true ? false : job.enabled,
    ...(job.freeze === undefined ? {} : { freeze: job.freeze }),
    ...(job.keepTailsDays === undefined ? {} : { keepTailsDays: job.keepTailsDays }),
    ...(options.freeze === undefined ? {} : { freeze: options.freeze }),
    ...(options.keepTails === undefined ? {} : { keepTailsDays: parseKeepTails(options.keepTails) }),
  };
}

function parseKeepTails(text: string): number | null {
  if (text === 'forever') return null;
  const days = parseDuration(text, 'keep-tails') / 86_400_000;
  if (Number.isInteger(days) && days >= shortestTailDays) return days;
  throw new AppError(
    'invalid',
    `keep-tails: ${JSON.stringify(text)} is neither "forever" nor whole days from ${shortestTailDays}d`,
  );
}

function parseInterval(text: string): number {
  const intervalMs = parseDuration(text, 'interval');
  if (intervalMs >= shortestIntervalMs && intervalMs <= longestIntervalMs) return intervalMs;
  throw new AppError('invalid', `interval: ${JSON.stringify(text)} is not from 1s to 24h`);
}

function parseRate(text: string): number | null {
  if (text === 'none') return null;
  const bytes = parseSize(text.replace(/\/s$/, ''), 'rate');
  // Below this one replicated piece of 64 KiB would take longer than a second.
  if (bytes < 65_536) throw new AppError('invalid', `rate: ${JSON.stringify(text)} is less than 64K a second`);
  return bytes;
}

function parseKeep(text: string, before: ReplicationJob['keep']): ReplicationJob['keep'] {
  const names = ['recent', 'minutes', 'hours'];
  const fields = parseFields(text, 'keep', (key) => names.includes(key), 'recent=N,minutes=N,hours=N');
  const count = (name: keyof ReplicationJob['keep'], min: number) => {
    const value = fields.get(name);
    return value === undefined ? before[name] : parseWholeNumber(value, `keep ${name}`, min, 1_000);
  };
  return { recent: count('recent', 1), minutes: count('minutes', 0), hours: count('hours', 0) };
}
