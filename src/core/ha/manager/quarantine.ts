import type { RoundDraft } from '#core/ha/manager/draft.ts';
import type { Flap } from '#core/ha/manager/memory.ts';
import { formatDuration } from '#core/text/duration.ts';

/**
 * A node that is lost again and again takes its guests down each time. Claimed too often within a time, it is quarantined: it keeps what
 * runs there and receives nothing until an operator releases it. It serves as a last resort for a lost guest that no other node can take.
 */

/** Notes the claims that the facts tell of, each once. */
export function noteToldClaims(draft: RoundDraft): void {
  for (const { name, claimedAtMs } of draft.facts.nodes) if (typeof claimedAtMs === 'number') noteClaim(draft, name, claimedAtMs);
}

/** Notes that the node was claimed then, if that is news. */
export function noteClaim(draft: RoundDraft, node: string, atMs: number): void {
  const { quarantineAfter, quarantineWindowMs } = draft.facts.settings;
  const was = draft.flaps.get(node) ?? { claimedAtMs: [], quarantined: false };
  const isNews = was.claimedAtMs.every((knownMs) => Math.abs(knownMs - atMs) >= sameClaimMs);
  if (quarantineAfter === 0 || !isNews || draft.facts.nowMs - atMs > quarantineWindowMs) return;
  const claimedAtMs = [...was.claimedAtMs.filter((knownMs) => Math.abs(atMs - knownMs) <= quarantineWindowMs), atMs]
    .sort((a, b) => a - b)
    .slice(-quarantineAfter);
  const quarantined = was.quarantined || claimedAtMs.length >= quarantineAfter;
  draft.flaps.set(node, { claimedAtMs, quarantined });
  if (quarantined && !was.quarantined) {
    const because = `it was claimed ${describeClaims(claimedAtMs)}; it receives no guests until an operator releases it`;
    draft.decisions.push({ kind: 'quarantine', node, quarantined, because });
  }
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
  draft.flaps.set(node, { claimedAtMs: draft.flaps.get(node)?.claimedAtMs.slice(-1) ?? [], quarantined: false });
  draft.decisions.push({ kind: 'quarantine', node, quarantined: false, because: 'an operator released it' });
}

/** `3 times in 12 min`: how often, and in what time. */
function describeClaims(claimedAtMs: readonly number[]): string {
  const spanMs = (claimedAtMs.at(-1) ?? 0) - (claimedAtMs[0] ?? 0);
  return claimedAtMs.length === 1 ? 'once' : `${claimedAtMs.length} times in ${formatDuration(spanMs)}`;
}
