import type { RoundDraft } from '#core/ha/manager/draft.ts';
import type { Flap } from '#core/ha/manager/memory.ts';
import { formatDuration } from '#core/text/duration.ts';

/**
 * A node that is lost again and again takes its guests down each time. Claimed too often within a time, it is quarantined: it keeps what
 * runs there and receives nothing until an operator releases it. It serves as a last resort for a lost guest that no other node can take.
 */

/** Notes the claims that the facts tell of, each once. */
export function noteToldClaims(draft: RoundDraft): void {
  for (const { name, claimedAtMs, claimedEpoch = null, earlierClaims = [] } of draft.facts.nodes) {
    for (const { atMs, epoch } of earlierClaims) noteClaim(draft, name, atMs, epoch);
    if (typeof claimedAtMs === 'number') noteClaim(draft, name, claimedAtMs, claimedEpoch);
  }
}

/** Notes that the node was claimed then, if that is news. */
export function noteClaim(draft: RoundDraft, node: string, atMs: number, epoch: number | null): void {
  const { quarantineAfter, quarantineWindowMs } = draft.facts.settings;
  const was = draft.flaps.get(node) ?? { claimedAtMs: [], quarantined: false };
  if (quarantineAfter === 0 || !isNews(was, atMs, epoch) || draft.facts.nowMs - atMs > quarantineWindowMs) return;
  // One that seems to lie elsewhere is kept for a while: it may have been noted by a clock that is wrong, and is no reason to forget the others.
  const known = [...was.claimedAtMs, atMs].slice(-2 * quarantineAfter);
  const counted = known.filter((knownMs) => Math.abs(atMs - knownMs) <= quarantineWindowMs).sort((a, b) => a - b);
  const quarantined = was.quarantined || counted.length >= quarantineAfter;
  const claimedAtMs = quarantined ? counted.slice(-quarantineAfter) : known;
  draft.flaps.set(node, { claimedAtMs, quarantined, ...(epoch === null ? {} : { epoch }) });
  if (quarantined && !was.quarantined) {
    const because = `it was claimed ${describeClaims(claimedAtMs)}; it receives no guests until an operator releases it`;
    draft.decisions.push({ kind: 'quarantine', node, quarantined, because });
  }
}

/** Clocks of managers differ, and step: only claims of which no epoch is known are told apart by their times. */
function isNews(was: Flap, atMs: number, epoch: number | null): boolean {
  if (epoch !== null && was.epoch !== undefined) return epoch > was.epoch;
  return was.claimedAtMs.every((knownMs) => Math.abs(knownMs - atMs) >= sameClaimMs);
}

/** A claim is recorded a little after the round that planned it began: times as near as that are the same claim. No node is back so soon. */
const sameClaimMs = 5_000;

/** Why the quarantine keeps guests away from the node; null: it does not. */
export function whyQuarantined({ flaps }: { flaps: ReadonlyMap<string, Flap> }, node: string): string | null {
  const flap = flaps.get(node);
  return flap?.quarantined === true ? `is quarantined: claimed ${describeClaims(flap.claimedAtMs)}` : null;
}

/** Takes the node back among those that receive guests. Its newest claim stays known, so that it does not become news again. */
export function releaseQuarantine(draft: RoundDraft, node: string): void {
  const was = draft.flaps.get(node);
  draft.flaps.set(node, { ...was, claimedAtMs: was?.claimedAtMs.slice(-1) ?? [], quarantined: false });
  draft.decisions.push({ kind: 'quarantine', node, quarantined: false, because: 'an operator released it' });
}

/** `3 times in 12 min`: how often, and in what time. */
function describeClaims(claimedAtMs: readonly number[]): string {
  const spanMs = (claimedAtMs.at(-1) ?? 0) - (claimedAtMs[0] ?? 0);
  return claimedAtMs.length === 1 ? 'once' : `${claimedAtMs.length} times in ${formatDuration(spanMs)}`;
}
