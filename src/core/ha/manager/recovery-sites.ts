import type { CopyFacts, GuestFacts } from '#core/ha/manager/facts.ts';
import type { GuestEntry } from '#core/ha/manager/memory.ts';
import { type RoundDraft, canServe, isOpen, whyRefused } from '#core/ha/manager/draft.ts';
import { whyNoRoom } from '#core/ha/manager/room.ts';
import { allowsNode, selectNode } from '#core/ha/manager/selection.ts';

/**
 * Where a lost guest can start: a verified copy of its disks lies there, it is no older than the guest allows, the rules allow the
 * node and the memory fits. Of those, only the nodes with the freshest copy are left to choose from. Its own disks, on its node that is
 * back, are fresher than every copy: no write is lost there, so it starts there even while that node is drained, and leaves afterwards.
 */
export type SitePlan = {
  /** null: every node will do. Empty: none now. */
  sites: ReadonlySet<string> | null;
  /** Why nodes were passed over. */
  refusals: string[];
  because: string | null;
  /** Its own disks, on its node that is back. */
  isBack: boolean;
  /** A fresher copy is worth a wait. */
  waits: boolean;
};

export function planSites(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): SitePlan {
  const { copies } = guest;
  if (copies === undefined) return planRoomOnly(draft, guest);
  const refusals: string[] = [];
  const fitting: CopyFacts[] = [];
  for (const copy of copies) {
    const refusal = isBackDraining(draft, copy) ? whyForbidden(draft, guest, copy.node) : whyNot(draft, guest, copy);
    if (refusal === null) fitting.push(copy);
    else refusals.push(`${copy.node}: ${refusal}`);
  }
  if (copies.length === 0) refusals.push('no verified copy on any node');
  const best = fitting.reduce((freshest, copy) => Math.max(freshest, copy.freshness), -Infinity);
  const wait = whyWait(draft, guest, entry, copies, best);
  if (wait !== null) return { sites: new Set(), refusals: [wait], because: null, isBack: false, waits: true };
  const freshest = fitting.filter((copy) => copy.freshness === best);
  if (best === ownDisks)
    return {
      sites: new Set(freshest.map((copy) => copy.node)),
      refusals,
      because: 'its node is back, with its own disks',
      isBack: true,
      waits: false,
    };
  const dataAgeMs = freshest[0]?.dataAgeMs ?? null;
  const passed = refusals.length > 0 ? ` (passed over: ${refusals.join('; ')})` : '';
  return {
    sites: new Set(freshest.map((copy) => copy.node)),
    refusals,
    because: dataAgeMs === null ? null : `freshest verified copy that may be used, ${dataAgeMs} ms old at the loss${passed}`,
    isBack: false,
    waits: false,
  };
}

/** The node of the plan that is the best for the guest; null: none will do now. */
export function chooseSite(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry, { sites, isBack }: SitePlan): string | null {
  if (sites?.size === 0) return null;
  // Its own disks lie on one node only, which receives nobody else while it is drained.
  if (isBack) return [...(sites ?? [])][0] ?? null;
  return selectNode(draft, guest, entry, 'best', sites);
}

/** True when the lost guest can be placed now, or waits for a fresher copy by itself. */
export function hasSite(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): boolean {
  const plan = planSites(draft, guest, entry);
  return plan.waits || chooseSite(draft, guest, entry, plan) !== null;
}

/** Disks that every node reaches: only the room counts, where it must. */
function planRoomOnly(draft: RoundDraft, guest: GuestFacts): SitePlan {
  if (!draft.facts.settings.memoryMustFit) return { sites: null, refusals: [], because: null, isBack: false, waits: false };
  const full = draft.usage.nodes.filter((node) => whyNoRoom(draft, [guest.id], node.name) !== null).map((node) => node.name);
  return {
    sites: new Set(draft.usage.nodes.map((node) => node.name).filter((name) => !full.includes(name))),
    refusals: full.map((name) => `${name}: ${whyNoRoom(draft, [guest.id], name) ?? ''}`),
    because: null,
    isBack: false,
    waits: false,
  };
}

function whyNot(draft: RoundDraft, guest: GuestFacts, copy: CopyFacts): string | null {
  if (!isOpen(draft, copy.node)) return whyRefused(draft, copy.node) ?? `is ${draft.nodes.get(copy.node) ?? 'not a node'}`;
  const limitMs = guest.maxDataAgeMs ?? null;
  if (limitMs !== null && copy.dataAgeMs > limitMs) return `its copy is ${copy.dataAgeMs} ms old, the limit is ${limitMs} ms`;
  return whyForbidden(draft, guest, copy.node) ?? whyNoRoom(draft, [guest.id], copy.node);
}

function whyForbidden(draft: RoundDraft, guest: GuestFacts, node: string): string | null {
  return allowsNode(draft, guest.id, node) ? null : 'the rules forbid it';
}

/** Freshness of the guest's own disks. */
const ownDisks = Infinity;

/** The guest's own disks, on its node that is back and drained. */
function isBackDraining(draft: RoundDraft, copy: CopyFacts): boolean {
  return copy.freshness === ownDisks && draft.nodes.get(copy.node) === 'draining' && canServe(draft, copy.node);
}

/** A fresher copy on a node that is away may be worth a wait, if the operator said so; the wait counts from the claim. */
function whyWait(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry, copies: CopyFacts[], best: number): string | null {
  const waitMs = guest.betterCopyWaitMs ?? 0;
  if (draft.facts.nowMs - entry.sinceMs >= waitMs) return null;
  const better = copies.find(
    (copy) => copy.freshness > best && !isOpen(draft, copy.node) && allowsNode(draft, guest.id, copy.node),
  );
  return better === undefined ? null : `waits for the fresher copy on ${better.node}, ${waitMs} ms at most`;
}
