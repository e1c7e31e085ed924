import type { CopyFacts, GuestFacts } from '#core/ha/manager/facts.ts';
import type { GuestEntry } from '#core/ha/manager/memory.ts';
import { isYounger, type RoundDraft, whyRefused, whyUnable } from '#core/ha/manager/draft.ts';
import { whyQuarantined } from '#core/ha/manager/quarantine.ts';
import { whyNoRoom } from '#core/ha/manager/room.ts';
import { allowsNode, selectNode } from '#core/ha/manager/selection.ts';
import { formatDuration } from '#core/text/duration.ts';

/**
 * Where a lost guest can start.
 *
 *   nodes with a verified copy of its disks, no older than the guest allows, that the rules allow and where the memory fits
 *     ──> those with the freshest of these copies ──> the best of them by rules and load
 *     ──> none: the same among quarantined nodes, as a last resort
 *
 * Its own disks, on its node that is back, are fresher than every copy: no write is lost there, so it starts there even while that node is
 * drained, and leaves afterwards.
 */
export type PlacePlan = {
  /** null: no node will do now. */
  node: string | null;
  /** A fresher copy is worth a wait. */
  waits: boolean;
  /** Why that node, or why none. */
  because: string;
};

export function planPlace(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): PlacePlan {
  const plan = planSites(draft, guest, entry);
  if (plan.kind === 'waits') return { node: null, waits: true, because: plan.because };
  const node = chooseSite(draft, guest, entry, plan);
  if (node !== null) return { node, waits: false, because: plan.because ?? whyBest(entry, node) };
  return planLastResort(draft, guest, entry, plan.refusals);
}

function whyBest(entry: GuestEntry, node: string): string {
  return node === entry.node ? 'its node is back' : `${node} is the best node for it`;
}

/** No trusted node will do: a quarantined one is better than none. */
function planLastResort(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry, refusals: Refusals): PlacePlan {
  if (draft.reserve.nodes.length === 0) return { node: null, waits: false, because: describe(refusals) };
  const reserve = { ...draft, usage: draft.reserve };
  const plan = planSites(reserve, guest, entry);
  if (plan.kind === 'waits') return { node: null, waits: true, because: plan.because };
  const node = chooseSite(reserve, guest, entry, plan);
  if (node === null) {
    const untrusted = [...plan.refusals].filter(([name]) => draft.reserve.byName.has(name));
    return { node: null, waits: false, because: describe(new Map([...refusals, ...untrusted])) };
  }
  const because = `${plan.because ?? whyBest(entry, node)}; no other node will do, although ${node} ${whyQuarantined(draft, node)}`;
  return { node, waits: false, because };
}

/** Nodes that were passed over, with the reason. */
type Refusals = ReadonlyMap<string, string>;

function describe(refusals: Refusals): string {
  if (refusals.size === 0) return 'no node that is up is allowed by its rules';
  return [...refusals].map(([node, because]) => `${node}: ${because}`).join('; ');
}

type SitePlan =
  | { kind: 'waits'; because: string }
  | {
      kind: 'sites';
      /** null: every node will do. Empty: none now. */
      sites: ReadonlySet<string> | null;
      refusals: Refusals;
      because: string | null;
      /** Its own disks, on its node that is back. */
      isBack: boolean;
    };

function chooseSite(
  draft: RoundDraft,
  guest: GuestFacts,
  entry: GuestEntry,
  { sites, isBack }: Extract<SitePlan, { kind: 'sites' }>,
): string | null {
  if (sites?.size === 0) return null;
  // Its own disks lie on one node only, which receives nobody else while it is drained.
  if (isBack) return [...(sites ?? [])][0] ?? null;
  return selectNode(draft, guest, entry, 'best', sites);
}

/** Freshness of the guest's own disks. */
const ownDisks = Infinity;

function planSites(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): SitePlan {
  const { copies } = guest;
  if (copies === undefined) return planRoomOnly(draft, guest);
  if (copies.length === 0) return { kind: 'sites', sites: new Set(), refusals: noCopy, because: null, isBack: false };
  const refusals = new Map<string, string>();
  const fitting: CopyFacts[] = [];
  for (const copy of copies) {
    const refusal = isBackDraining(draft, copy) ? whyForbidden(draft, guest, copy.node) : whyNot(draft, guest, copy);
    if (refusal === null) fitting.push(copy);
    else refusals.set(copy.node, refusal);
  }
  const best = fitting.reduce((freshest, copy) => Math.max(freshest, copy.freshness), -Infinity);
  const wait = whyWait(draft, guest, entry, copies, best);
  if (wait !== null) return { kind: 'waits', because: wait };
  const freshest = fitting.filter((copy) => copy.freshness === best);
  const sites = new Set(freshest.map((copy) => copy.node));
  const isBack = best === ownDisks;
  return { kind: 'sites', sites, refusals, isBack, because: whyFreshest(freshest[0], refusals) };
}

const noCopy: Refusals = new Map([['every node', 'no verified copy']]);

function whyFreshest(copy: CopyFacts | undefined, refusals: Refusals): string | null {
  if (copy === undefined) return null;
  if (copy.freshness === ownDisks) return 'its node is back, with its own disks';
  const passed = refusals.size > 0 ? ` (passed over: ${describe(refusals)})` : '';
  return `freshest verified copy that may be used, ${copy.dataAgeMs} ms old at the loss${passed}`;
}

/** Disks that every node reaches: only the room counts, where it must. */
function planRoomOnly(draft: RoundDraft, guest: GuestFacts): SitePlan {
  const { mustFit, nodes } = draft.usage;
  if (!mustFit) return { kind: 'sites', sites: null, refusals: new Map(), because: null, isBack: false };
  const refusals = new Map<string, string>();
  for (const { name } of nodes) {
    const refusal = whyNoRoom(draft, [guest.id], name);
    if (refusal !== null) refusals.set(name, refusal);
  }
  const sites = new Set(nodes.map((node) => node.name).filter((name) => !refusals.has(name)));
  return { kind: 'sites', sites, refusals, because: null, isBack: false };
}

function whyNot(draft: RoundDraft, guest: GuestFacts, copy: CopyFacts): string | null {
  if (!draft.usage.byName.has(copy.node))
    return whyRefused(draft, copy.node) ?? `is ${draft.nodes.get(copy.node) ?? 'not a node'}`;
  const limitMs = guest.maxDataAgeMs ?? null;
  if (limitMs !== null && copy.dataAgeMs > limitMs) return `its copy is ${copy.dataAgeMs} ms old, the limit is ${limitMs} ms`;
  return whyForbidden(draft, guest, copy.node) ?? whyNoRoom(draft, [guest.id], copy.node);
}

function whyForbidden(draft: RoundDraft, guest: GuestFacts, node: string): string | null {
  return allowsNode(draft, guest.id, node) ? null : 'the rules forbid it';
}

/** The guest's own disks, on its node that is back and drained. */
function isBackDraining(draft: RoundDraft, { node, freshness }: CopyFacts): boolean {
  const isPresent = draft.nodeFacts.get(node)?.present === true;
  return freshness === ownDisks && isPresent && draft.nodes.get(node) === 'draining' && whyUnable(draft, node) === null;
}

/** A fresher copy on a node that is away may be worth a wait, if the operator said so; the wait counts from the claim. */
function whyWait(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry, copies: CopyFacts[], best: number): string | null {
  const waitMs = guest.betterCopyWaitMs ?? 0;
  if (!isYounger(draft, entry, waitMs)) return null;
  const better = copies.find(
    ({ node, freshness }) => freshness > best && isAway(draft, node) && whyForbidden(draft, guest, node) === null,
  );
  return better === undefined ? null : `it waits for the fresher copy on ${better.node}, ${formatDuration(waitMs)} at most`;
}

/** The node cannot take guests now, but may soon. */
function isAway(draft: RoundDraft, node: string): boolean {
  return draft.nodes.get(node) !== 'up' || whyUnable(draft, node) !== null;
}
