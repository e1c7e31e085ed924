import { assert } from '#base/assert.ts';
import type { GroupFact, GuardEffect, GuardFacts, GuardMode, RecordSight } from '#core/ha/guard-state.ts';
import { heldEpoch, type Renewed, type StoreWish } from '#core/ha/guard-store.ts';
import { clockStepMs, type Timing } from '#core/ha/timing.ts';

/** What the planner of one mode sees. The clock was read after the facts. `lookedBootMs`: when the newest look at the store was sent. */
export type GuardView = {
  facts: GuardFacts;
  sight: RecordSight | null;
  renewed: Renewed | null;
  lookedBootMs: number;
  nowBootMs: number;
};

/** Either the mode changes, and the new mode plans at once (`forget`: after a fresh look); or it stays and gives its orders. */
export type GuardStep =
  | { move: GuardMode; because: string; forget?: true }
  | { stay: GuardMode; effects: GuardEffect[]; wish: StoreWish | null };

/** The instant from which a renewal sent at `sentBootMs` carries nothing; one step of the clock early, because it is cut to steps. */
export function limitOf(sentBootMs: number, timing: Timing): number {
  return sentBootMs + timing.softMs - clockStepMs;
}

/** Pets, or opens (which pets); `limitBootMs` null: the guests are confirmed still. */
export function planHold(facts: GuardFacts, limitBootMs: number | null): GuardEffect[] {
  switch (facts.watchdog.kind) {
    case 'open':
      return [{ kind: 'pet', notAfterBootMs: limitBootMs }];
    case 'closed': {
      const empty = facts.groups.every((group) => !group.populated);
      return [{ kind: 'open-watchdog', notAfterBootMs: limitBootMs, whenRefused: empty ? 'disarm' : 'keep-armed' }];
    }
    case 'failed':
      return [];
  }
}

/** Pets when it is open, and never opens: for a guard that is on its way out. */
export function planPet(facts: GuardFacts, limitBootMs: number | null): GuardEffect[] {
  return facts.watchdog.kind === 'open' ? planHold(facts, limitBootMs) : [];
}

/** Why this host's watchdog cannot fence in time; null: it can, or it is not open yet. */
export function describeUnfit({ watchdog, self }: GuardFacts): string | null {
  if (watchdog.kind === 'failed') return `the watchdog does not work: ${watchdog.problem}`;
  if (watchdog.kind === 'closed' || watchdog.timeoutMs <= self.timing.watchdogMs) return null;
  return (
    `the watchdog resets this host after ${watchdog.timeoutMs} ms, later than the ${self.timing.watchdogMs} ms of timing profile ` +
    `${self.timing.profile}; choose a slower profile on every node or another watchdog`
  );
}

/** A renewal under `epoch` is known to be in the store, with at least one renewal's time left of it. */
export function isBack(epoch: number, { renewed, facts, nowBootMs }: GuardView): boolean {
  if (renewed?.epoch !== epoch) return false;
  return nowBootMs + facts.self.timing.renewMs <= limitOf(renewed.sentBootMs, facts.self.timing);
}

export function serveAgain(epoch: number, { renewed, nowBootMs }: GuardView): GuardMode {
  assert(renewed !== null, 'serving needs an acknowledged renewal');
  return { kind: 'serving', sinceBootMs: nowBootMs, epoch, renewedBootMs: renewed.sentBootMs, thawedBootMs: null };
}

/** True when the kernel confirms every group frozen; true when there is none. */
export function allFrozen(groups: GroupFact[]): boolean {
  return groups.every((group) => group.frozen);
}

/** To all of them, frozen or not: what reads as frozen may be about to thaw. */
export function freezeGroups(groups: GroupFact[]): GuardEffect[] {
  return groups.map(({ epoch }) => ({ kind: 'freeze', epoch }));
}

/** Freezes first, so that who enters after the kill does not run; then kills; an empty frozen group is removed. */
export function stopGroups(groups: GroupFact[]): GuardEffect[] {
  return groups.flatMap(({ epoch, frozen, populated }): GuardEffect[] => {
    if (frozen && !populated) return [{ kind: 'remove-group', epoch }];
    return [
      { kind: 'freeze', epoch },
      { kind: 'kill', epoch },
    ];
  });
}

/** Why the permit of `epoch` is not ours any more; null: it is, as far as is known. */
function describeLoss(sight: RecordSight | null, epoch: number, bootId: string): string | null {
  if (sight === null || heldEpoch(sight, bootId) === epoch) return null;
  const permit = sight.permit?.value;
  if (permit === undefined) return `the permit of epoch ${epoch} is gone from the store`;
  if (permit.state === 'revoked') return `epoch ${epoch} was revoked (${permit.proof.kind})`;
  return `the permit was granted to boot ${permit.bootId} under epoch ${permit.epoch}`;
}

/** The move to `clearing` when the permit is lost; null: it is not. `stilled`: the guests are confirmed frozen. */
export function planLoss(
  epoch: number,
  { facts, sight, nowBootMs }: GuardView,
  { stilled }: { stilled: boolean } = { stilled: false },
): GuardStep | null {
  const lost = describeLoss(sight, epoch, facts.self.bootId);
  if (lost === null) return null;
  return { move: { kind: 'clearing', sinceBootMs: nowBootMs, freezeAsked: false, stilled }, because: lost };
}

/** The watchdog cannot fence: guests killed, permit given back; only a new guard tries again. */
export function planUnfit({ facts, nowBootMs }: GuardView): GuardStep | null {
  const unfit = describeUnfit(facts);
  if (unfit === null) return null;
  return { move: { ...killingAt(nowBootMs), limitBootMs: null, reason: unfit, until: 'restart' }, because: unfit };
}

/** A release asked for on this node, or ordered by the manager of whoever holds the permit. */
export function planReleaseAsked({ facts, sight, nowBootMs }: GuardView, limitBootMs: number | null): GuardStep | null {
  const release = { ...killingAt(nowBootMs), limitBootMs };
  if (facts.releaseAsked !== null) {
    return { move: { ...release, reason: facts.releaseAsked, until: 'request-gone' }, because: `asked: ${facts.releaseAsked}` };
  }
  const ordered = sight?.release?.reason ?? null;
  if (ordered === null || heldEpoch(sight, facts.self.bootId) === null) return null;
  return { move: { ...release, reason: ordered, until: 'agent-back' }, because: `ordered: ${ordered}` };
}

function killingAt(nowBootMs: number) {
  return { kind: 'releasing', sinceBootMs: nowBootMs, freezeAsked: false, kill: true } as const;
}

/** A clean stop gives the permit back only when no guest is left; with guests the guard goes on guarding until they are gone. */
export function planStop({ facts, nowBootMs }: GuardView, limitBootMs: number | null): GuardStep | null {
  if (!facts.stop || facts.groups.some((group) => group.populated)) return null;
  const reason = 'the guard was stopped and no HA guest runs';
  return {
    move: { kind: 'releasing', sinceBootMs: nowBootMs, freezeAsked: false, kill: false, reason, limitBootMs, until: 'exit' },
    because: reason,
  };
}
