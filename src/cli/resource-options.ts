import { AppError } from '#base/error.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { HaResource, WantedState } from '#core/ha/records.ts';
import { parseDuration } from '#core/text/duration.ts';
import { parseChoice, parseWholeNumber } from '#core/text/fields.ts';
import { parseGuests } from '#cli/rule-options.ts';
import { parseSwitch } from '#cli/setting-options.ts';

export const wantedStates: readonly WantedState[] = ['started', 'stopped', 'disabled', 'ignored'];

/** The options of `ha set` as they were typed. */
export type ResourceOptions = {
  want?: string;
  maxDataAge?: string;
  retries?: string;
  relocations?: string;
  failback?: string;
  waitForBetterCopy?: string;
  startOrder?: string;
  startsAfter?: string;
};

const mostTries = 100;
const mostStartOrder = 10_000;

/**
 * What the options change about `guest`, and only that. `guests` and `resources` are all there are: dependencies must name guests
 * and must not go in a circle. Raises AppError invalid or missing, naming the option; invalid also when nothing is to change.
 */
export function parseResourceOptions(
  options: ResourceOptions,
  guest: GuestRecord,
  guests: GuestRecord[],
  resources: HaResource[],
): Partial<HaResource> {
  const changes: Partial<HaResource> = {};
  if (options.want !== undefined) changes.want = parseChoice(options.want, 'want', wantedStates);
  if (options.maxDataAge !== undefined) changes.maxDataAgeMs = parseLimit(options.maxDataAge, 'max-data-age');
  if (options.retries !== undefined) changes.localRetries = parseWholeNumber(options.retries, 'retries', 0, mostTries);
  if (options.relocations !== undefined)
    changes.otherNodeTries = parseWholeNumber(options.relocations, 'relocations', 0, mostTries);
  if (options.failback !== undefined) changes.failback = parseSwitch(options.failback, 'failback');
  if (options.waitForBetterCopy !== undefined) {
    changes.betterCopyWaitMs = parseLimit(options.waitForBetterCopy, 'wait-for-better-copy') ?? 0;
  }
  if (options.startOrder !== undefined) {
    changes.startOrder = parseWholeNumber(options.startOrder, 'start-order', 0, mostStartOrder);
  }
  if (options.startsAfter !== undefined) {
    changes.startsAfter = parseStartsAfter(options.startsAfter, guest, guests, resources);
  }
  if (Object.keys(changes).length > 0) return changes;
  throw new AppError('invalid', 'want: nothing to change; give --want or another option (`holdfast ha set --help`)');
}

function parseLimit(text: string, field: string): number | null {
  return text === 'none' ? null : parseDuration(text, field);
}

function parseStartsAfter(text: string, guest: GuestRecord, guests: GuestRecord[], resources: HaResource[]): number[] {
  if (text === 'none') return [];
  const after = parseGuests(text, guests, 'starts-after').map(Number);
  if (after.includes(guest.vmid)) throw new AppError('invalid', `starts-after: guest ${guest.vmid} cannot wait for itself`);
  const waitsFor = new Map(resources.map((resource) => [resource.vmid, resource.startsAfter ?? []]));
  const circle = findCircle(guest.vmid, after, waitsFor);
  if (circle === null) return after;
  throw new AppError('invalid', `starts-after: the guests would wait for each other for ever (${circle.join(' after ')})`);
}

/** The way by which `vmid` would come to wait for itself; null: there is none. */
function findCircle(vmid: number, after: readonly number[], waitsFor: ReadonlyMap<number, readonly number[]>): number[] | null {
  const seen = new Set<number>();
  const ways = after.map((first) => [vmid, first]);
  for (let way = ways.pop(); way !== undefined; way = ways.pop()) {
    const last = way.at(-1) ?? vmid;
    if (last === vmid) return way;
    if (seen.has(last)) continue;
    seen.add(last);
    for (const next of waitsFor.get(last) ?? []) ways.push([...way, next]);
  }
  return null;
}
