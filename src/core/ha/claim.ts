import type { ClaimProof, Heartbeat, Permit } from '#core/ha/records.ts';
import type { Silence } from '#core/ha/observer.ts';

/**
 * When a silent node may be claimed, and what to ask its management controller meanwhile.
 *
 *   fresh ──silent > suspect──> suspected ──silent >= D───────────────> claim (silence)
 *                                  │ controller says off, twice ─────> claim (power-off)
 *                                  └ controller says on, silent past soft ─> ask it to cut the power, read again
 *
 * The silence deadline always runs beside the controller: with the plug pulled the controller is dead too.
 *
 * A node whose newest heartbeat says `disarmed` runs its guests without a watchdog, for as long as it pleases: its silence proves nothing, and
 * cutting its power would end guests that run well. Only a controller that says off is proof (or a new boot, or its own release). The
 * claim compares the revision of the heartbeat that was judged here, so the phase cannot change under it.
 */
export type ClaimTiming = { renewMs: number; softMs: number; claimMs: number };

/** What this manager has heard from a node's management controller since the node's last heartbeat was seen. */
export type PowerEvidence = {
  /** Completed reads, oldest first; `askedAtBootMs` is when the question was sent. */
  reads: { power: 'on' | 'off'; askedAtBootMs: number; answeredAtBootMs: number }[];
  offAskedAtBootMs: number | null;
  onAskedAtBootMs: number | null;
  /** A question is under way; do not ask another. */
  busy: boolean;
};

export const noEvidence: PowerEvidence = { reads: [], offAskedAtBootMs: null, onAskedAtBootMs: null, busy: false };

export type NodeClaimFacts = {
  name: string;
  permit: Permit;
  heartbeat: Heartbeat;
  silence: Silence;
  /** Boot-time clock of the observer at the last sight of the heartbeat. */
  lastSightBootMs: number;
  controller: { name: string; evidence: PowerEvidence } | null;
};

export type ClaimDecision =
  | { kind: 'none' }
  | { kind: 'wait'; because: string }
  | { kind: 'ask'; action: 'read' | 'off'; because: string }
  | { kind: 'claim'; proof: ClaimProof; because: string };

/** Silence after which a node is suspected: three renewals missed, never less than half the soft limit. */
export function suspectAfterMs(timing: ClaimTiming): number {
  return Math.max(3 * timing.renewMs, Math.round(timing.softMs / 2));
}

/** What to do about one node now. Pure; the claim itself is a compare-and-set on heartbeat, permit and lead. */
export function planClaim(
  facts: NodeClaimFacts,
  timing: ClaimTiming,
  readsApartMs: number,
  observer: string,
  nowBootMs: number,
): ClaimDecision {
  if (facts.permit.state === 'revoked') return { kind: 'none' };
  if (facts.silence.kind === 'own-gap')
    return { kind: 'wait', because: 'this node has no quorum of its own; silence is not counted' };
  if (facts.silence.kind === 'never-seen') return { kind: 'wait', because: `${facts.name} has not been seen by this manager` };
  const { silentMs } = facts.silence;
  if (silentMs < suspectAfterMs(timing)) return { kind: 'none' };
  const seq = facts.heartbeat.seq;
  // Nodes may run different profiles: the silent node's own one says when its watchdog has surely cut it.
  const claimMs = Math.max(timing.claimMs, facts.permit.claimMs);
  const isDisarmed = facts.heartbeat.phase === 'disarmed';
  if (silentMs >= claimMs && !isDisarmed) {
    return {
      kind: 'claim',
      proof: { kind: 'silence', heartbeatSeq: seq, silentMs, claimMs, observer },
      because: `${facts.name} silent for ${silentMs} ms, its watchdog has cut it by ${claimMs} ms`,
    };
  }
  const silent = `${facts.name} silent for ${silentMs} ms`;
  const suspicion = isDisarmed ? `${silent}, and disarmed: its guests may run on, silence proves nothing` : silent;
  if (facts.controller === null) {
    const until = isDisarmed ? 'waiting for its return' : `claim at ${claimMs} ms`;
    return { kind: 'wait', because: `${suspicion}; ${until}` };
  }
  const mayCut = !isDisarmed && silentMs >= timing.softMs + timing.renewMs;
  return planByController(facts, facts.controller, { readsApartMs, observer, mayCut, suspicion, nowBootMs });
}

type ControllerStep = {
  readsApartMs: number;
  observer: string;
  /** Past soft its guests are frozen anyway, so cutting the power costs nobody anything any more. */
  mayCut: boolean;
  suspicion: string;
  nowBootMs: number;
};

function planByController(
  facts: NodeClaimFacts,
  controller: { name: string; evidence: PowerEvidence },
  step: ControllerStep,
): ClaimDecision {
  const { evidence } = controller;
  // Only what was asked after the last sight says anything about a node that was alive then.
  const reads = evidence.reads.filter((read) => read.askedAtBootMs >= facts.lastSightBootMs);
  const apartMs = offReadsApartMs(reads);
  if (apartMs !== null && apartMs >= step.readsApartMs) {
    return {
      kind: 'claim',
      proof: {
        kind: 'power-off',
        heartbeatSeq: facts.heartbeat.seq,
        controller: controller.name,
        readsApartMs: apartMs,
        observer: step.observer,
      },
      because: `${step.suspicion}; its controller says off twice, ${apartMs} ms apart`,
    };
  }
  if (evidence.busy) return { kind: 'wait', because: `${step.suspicion}; waiting for its controller` };
  const last = reads.at(-1);
  if (last !== undefined && step.nowBootMs - last.answeredAtBootMs < step.readsApartMs) {
    return { kind: 'wait', because: `${step.suspicion}; its controller is read again soon` };
  }
  const offAsked = evidence.offAskedAtBootMs !== null && evidence.offAskedAtBootMs >= facts.lastSightBootMs;
  if (last?.power === 'on' && !offAsked && step.mayCut) {
    return { kind: 'ask', action: 'off', because: `${step.suspicion}; its controller says on: cutting its power` };
  }
  return { kind: 'ask', action: 'read', because: `${step.suspicion}; asking its controller` };
}

/** Time between the start of the unbroken run of `off` answers at the end and the last question; null without two of them. */
function offReadsApartMs(reads: PowerEvidence['reads']): number | null {
  const last = reads.at(-1);
  if (last === undefined || last.power !== 'off') return null;
  let first = last;
  for (let index = reads.length - 2; index >= 0; index -= 1) {
    const read = reads[index];
    if (read === undefined || read.power !== 'off') break;
    first = read;
  }
  return first === last ? null : last.askedAtBootMs - first.answeredAtBootMs;
}
