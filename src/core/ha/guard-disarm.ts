import type { GuardEffect, GuardFacts, GuardMode } from '#core/ha/guard-state.ts';
import {
  limitOf,
  planHold,
  planLoss,
  planReleaseAsked,
  planStop,
  planUnfit,
  serveAgain,
  stopGroups,
  type GuardStep,
  type GuardView,
} from '#core/ha/guard-steps.ts';

type Disarmed = Extract<GuardMode, { kind: 'disarmed' }>;
type Arming = Extract<GuardMode, { kind: 'arming' }>;

/** The way into `disarmed`: a heartbeat that says so was acknowledged, and the manager still wants it. The argument is in guard-state.ts. */
export function planLetGo(epoch: number, thawedBootMs: number | null, view: GuardView): GuardStep | null {
  const { renewed, nowBootMs } = view;
  const disarm = view.sight?.disarm ?? null;
  if (renewed?.epoch !== epoch || !renewed.disarmed || disarm === null) return null;
  return {
    move: { kind: 'disarmed', sinceBootMs: nowBootMs, epoch, thawedBootMs },
    because: `disarmed (${disarm.mode}): a heartbeat that says so was acknowledged`,
  };
}

/**
 * Guards nothing: whatever the store and the clock do, the guests run on. A permit that is found lost is another matter: somebody
 * proved that this node is off or that its guests were given up, so they go as always.
 *
 * A clean stop with guests running ends the guard at once and leaves them and the permit: the heartbeat that stands in the store is
 * `disarmed`, so silence takes nothing from them, and the next guard of this boot takes them up again. Without guests the permit is given
 * back as in any clean stop, so that the node can be switched off and be known to run nothing.
 */
export function planDisarmed(mode: Disarmed, view: GuardView): GuardStep {
  const { facts, sight, nowBootMs } = view;
  const end = planLoss(mode.epoch, view) ?? planReleaseAsked(view, null) ?? planStop(view, null);
  if (end !== null) return end;
  if (sight !== null && sight.disarm === null) {
    return {
      move: { kind: 'arming', sinceBootMs: nowBootMs, epoch: mode.epoch, carriedBootMs: null },
      because: 'the order to disarm is gone',
    };
  }
  const isOurs = (group: { epoch: number }) => group.epoch === mode.epoch;
  // An earlier guard froze them before it could know: nothing would ever thaw them.
  const thaw = facts.groups.some((group) => isOurs(group) && group.frozen);
  const effects: GuardEffect[] = thaw ? [{ kind: 'thaw', epoch: mode.epoch, notAfterBootMs: null }] : [];
  effects.push(...stopGroups(facts.groups.filter((group) => !isOurs(group))), ...planUnguard(facts));
  if (mayEnd(facts)) return { stay: mode, effects: [...effects, { kind: 'exit' }], wish: null };
  return { stay: thaw ? { ...mode, thawedBootMs: nowBootMs } : mode, effects, wish: { kind: 'renew' } };
}

/** Closes the watchdog; one that refuses is petted on, and one that an earlier guard left counting is opened so that it can be closed. */
function planUnguard({ watchdog }: GuardFacts): GuardEffect[] {
  switch (watchdog.kind) {
    case 'open':
      return watchdog.stuckArmed ? [{ kind: 'pet', notAfterBootMs: null }] : [{ kind: 'disarm' }];
    case 'closed':
      return watchdog.leftCounting ? [{ kind: 'open-watchdog', notAfterBootMs: null, whenRefused: 'disarm' }] : [];
    case 'failed':
      return [{ kind: 'disarm' }];
  }
}

/** A watchdog that cannot be closed would reset the host soon after us: for it a stop waits until no guest runs; a successor is in time. */
function mayEnd({ watchdog, stop, handOver }: GuardFacts): boolean {
  if (watchdog.kind === 'open') return watchdog.stuckArmed && handOver;
  return watchdog.kind === 'closed' && !watchdog.leftCounting && (stop || handOver);
}

/**
 * Back to guarding. First guard.json says so, then the watchdog opens, then a heartbeat `serving` is sent: from that instant on a claim by
 * silence is possible, so the soft limit counts from it. Acknowledged: serving. The order to disarm may come again meanwhile; then
 * a heartbeat `disarmed` has to be acknowledged anew.
 */
export function planArming(mode: Arming, view: GuardView): GuardStep {
  const { facts, renewed, nowBootMs } = view;
  const isWatched = facts.watchdog.kind === 'open' && !facts.fileSaysDisarmed;
  const carriedBootMs = mode.carriedBootMs ?? (isWatched ? nowBootMs : null);
  const limit = carriedBootMs === null ? null : limitOf(carriedBootMs, facts.self.timing);
  if (renewed?.epoch === mode.epoch && !renewed.disarmed) {
    return { move: serveAgain(mode.epoch, view), because: 'the watchdog is open and a renewal was acknowledged' };
  }
  if (limit !== null && nowBootMs >= limit) {
    return {
      move: { kind: 'freezing', sinceBootMs: nowBootMs, freezeAsked: false, epoch: mode.epoch },
      because: `armed again, but no renewal was acknowledged in ${nowBootMs - (carriedBootMs ?? nowBootMs)} ms`,
    };
  }
  const end =
    planLetGo(mode.epoch, null, view) ??
    planLoss(mode.epoch, view) ??
    planUnfit(view) ??
    planReleaseAsked(view, limit) ??
    planStop(view, limit);
  if (end !== null) return end;
  const stay = { ...mode, carriedBootMs };
  const strays = stopGroups(facts.groups.filter((group) => group.epoch !== mode.epoch));
  if (facts.fileSaysDisarmed) return { stay, effects: strays, wish: null };
  return { stay, effects: [...planArm(facts, limit), ...strays], wish: { kind: 'renew' } };
}

function planArm(facts: GuardFacts, limit: number | null): GuardEffect[] {
  if (facts.watchdog.kind !== 'closed') return planHold(facts, limit);
  // Nothing depends on it yet: one that cannot be used must not reset the host.
  return [{ kind: 'open-watchdog', notAfterBootMs: limit, whenRefused: 'disarm' }];
}
