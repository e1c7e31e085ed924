import type { CompiledRules } from '#core/ha/manager/compiled-rules.ts';
import type { GuestFacts } from '#core/ha/manager/facts.ts';
import { type GuestEntry, takesRoom } from '#core/ha/manager/memory.ts';
import { countsOn, type NodeUsage, type Usage } from '#core/ha/manager/usage.ts';
import { formatSize } from '#core/text/size.ts';

/** Everything that a choice of a node looks at. */
export type Placement = {
  usage: Usage;
  rules: CompiledRules;
  guests: ReadonlyMap<string, GuestEntry>;
  turnedBack: ReadonlyMap<string, string>;
  guestFacts: ReadonlyMap<string, GuestFacts>;
};

/**
 * Memory cannot be shared as cores can. Where it must fit, a node takes a guest only if the claims of all who are there or on their way
 * leave enough for it and for those that come with it. What guests were measured to use does not count: they may use all at any time.
 */

/** Why the guests do not fit on the node together; null: they do, or they need not. Those that are counted there already need nothing. */
export function whyNoRoom(placement: Placement, guests: readonly string[], node: string): string | null {
  const { usage } = placement;
  if (!usage.mustFit) return null;
  const to = usage.byName.get(node);
  if (to === undefined) return 'receives no guests';
  const neededBytes = guests.reduce((sum, id) => sum + neededOn(placement, id, node), 0);
  const freeBytes = freeBytesOn(placement, to);
  if (neededBytes === 0 || freeBytes >= neededBytes) return null;
  return `${formatSize(Math.max(0, freeBytes))} of memory free, ${formatSize(neededBytes)} needed`;
}

function neededOn({ guests, guestFacts }: Placement, id: string, node: string): number {
  const entry = guests.get(id);
  if (entry !== undefined && countsOn(entry, node)) return 0;
  return guestFacts.get(id)?.claimed.memoryBytes ?? 0;
}

/** Memory of the node that nobody claims; without end where it need not fit. */
export function freeBytesOn({ usage }: Pick<Placement, 'usage'>, node: NodeUsage): number {
  return usage.mustFit ? node.size.memoryBytes - node.claimedBytes : Infinity;
}

/** The guest and its companions, as far as they take up room: where one goes, the rules bring the others. */
export function setWithRoom({ rules, guests }: Placement, guest: string): string[] {
  const companions = (rules.together.get(guest) ?? []).filter((other) => {
    const entry = guests.get(other);
    return entry !== undefined && takesRoom(entry.state);
  });
  return [guest, ...companions];
}
