import type { GuestFacts } from '#core/ha/manager/facts.ts';
import { compareNames } from '#core/ha/manager/usage.ts';

/**
 * Guests that start after each other in a circle, so that none of them would ever be first: for each of them all members of the circle
 * or of the circles that hang together, in id order. Others are not in the map.
 *
 * Method: Tarjan 1972, strongly connected components; each guest and each link is looked at once.
 */
export function findStartCycles(guests: ReadonlyMap<string, GuestFacts>): ReadonlyMap<string, readonly string[]> {
  const walk: Walk = { linksOf: (id) => guests.get(id)?.startsAfter ?? [], seen: new Map(), path: [], circles: new Map() };
  for (const [id, { startsAfter = [] }] of guests) if (startsAfter.length > 0 && !walk.seen.has(id)) walkFrom(walk, id);
  return walk.circles;
}

/** `lowest`: the earliest guest on the path that this one leads back to. */
type Seen = { at: number; lowest: number; isOnPath: boolean };

type Walk = {
  linksOf: (id: string) => readonly string[];
  seen: Map<string, Seen>;
  /** Guests whose circle is not known yet, in the order they were found. */
  path: string[];
  circles: Map<string, readonly string[]>;
};

function walkFrom(walk: Walk, root: string): void {
  const frames = [open(walk, root)];
  for (let frame = frames.at(-1); frame !== undefined; frame = frames.at(-1)) {
    const link = frame.links.next();
    if (link.done === true) {
      frames.pop();
      const above = frames.at(-1);
      if (above !== undefined) above.seen.lowest = Math.min(above.seen.lowest, frame.seen.lowest);
      if (frame.seen.lowest === frame.seen.at) close(walk, frame.id);
      continue;
    }
    const other = walk.seen.get(link.value);
    if (other === undefined) frames.push(open(walk, link.value));
    else if (other.isOnPath) frame.seen.lowest = Math.min(frame.seen.lowest, other.at);
  }
}

function open(walk: Walk, id: string): { id: string; seen: Seen; links: Iterator<string> } {
  const at = walk.seen.size;
  const seen = { at, lowest: at, isOnPath: true };
  walk.seen.set(id, seen);
  walk.path.push(id);
  return { id, seen, links: walk.linksOf(id)[Symbol.iterator]() };
}

/** Everything on the path from this guest on leads back to it, and to nobody before it. */
function close(walk: Walk, id: string): void {
  const members = walk.path.splice(walk.path.lastIndexOf(id));
  for (const member of members) {
    const seen = walk.seen.get(member);
    if (seen !== undefined) seen.isOnPath = false;
  }
  if (members.length === 1 && !walk.linksOf(id).includes(id)) return;
  const circle = members.sort(compareNames);
  for (const member of circle) walk.circles.set(member, circle);
}
