import { planLetGo } from '#core/ha/guard-disarm.ts';
import type { GuardEffect, GuardMode, Rival } from '#core/ha/guard-state.ts';
import {
  allFrozen,
  freezeGroups,
  isBack,
  planHold,
  planPet,
  planReleaseAsked,
  planStop,
  planUnfit,
  serveAgain,
  stopGroups,
  type GuardStep,
  type GuardView,
} from '#core/ha/guard-steps.ts';
import { heldEpoch } from '#core/ha/guard-store.ts';
import type { Timing } from '#core/ha/timing.ts';

type Starting = Extract<GuardMode, { kind: 'starting' }>;

/** Renewals of another machine under our name would be seen within this many renewal times. */
const rivalRenewals = 3;

/**
 * No permit is known to be good. Guests that run (an earlier guard of this boot ended) are carried by its last renewal and its last
 * pet only: ours comes first, and until then nothing is petted; opening the watchdog is a pet too. When the store does not answer
 * within a renewal's time they are frozen, and frozen guests may be petted for.
 *
 * While the node is disarmed a permit is taken all the same, with a heartbeat that says so and a closed watchdog: the cluster sees which
 * boot is up and that the older one is over, and a grant that is never claimed by silence needs no guard. No guest starts under it: its control
 * group is made only once the guard serves, and the agent goes by guard.json.
 */
export function planStarting(mode: Starting, view: GuardView): GuardStep {
  const { facts, sight, nowBootMs } = view;
  const end = planEarlyEnd(view);
  if (end !== null) return end;
  const { stay, effects } = planStill(mode, view);
  if (sight === null) return { stay, effects, wish: { kind: 'look' } };
  const epoch = heldEpoch(sight, facts.self.bootId);
  if (epoch !== null) return planReturn(epoch, stay, effects, view);
  if (facts.groups.length > 0) {
    const because = 'guests of an epoch that is no longer ours are left in the control group';
    return { move: { kind: 'clearing', sinceBootMs: nowBootMs, freezeAsked: false, stilled: false }, because };
  }
  const rival = findRival(mode, view);
  const waiting = { ...stay, rival };
  if (rival !== null && nowBootMs - rival.sinceBootMs < rivalSilenceMs(rival, facts.self.timing)) {
    return { stay: waiting, effects, wish: { kind: 'look' } };
  }
  // To guard, the permit is taken only with a watchdog that is known to fit; planEarlyEnd has turned away one that does not.
  const ready = sight.disarm !== null || facts.watchdog.kind === 'open';
  return { stay: waiting, effects, wish: ready ? { kind: 'take' } : null };
}

function planEarlyEnd(view: GuardView): GuardStep | null {
  return planStop(view, null) ?? planUnfit(view) ?? planReleaseAsked(view, null);
}

/** Pets only for guests that are confirmed still; sees to it that they become so when nothing carries them. */
function planStill(mode: Starting, view: GuardView): { stay: Starting; effects: GuardEffect[] } {
  const { facts, nowBootMs } = view;
  if (facts.groups.length === 0) return { stay: mode, effects: mayOpen(view) ? planHold(facts, null) : planPet(facts, null) };
  const frozen = allFrozen(facts.groups);
  if (mode.freezeAsked && frozen) return { stay: mode, effects: planHold(facts, null) };
  if (!frozen && nowBootMs - mode.sinceBootMs < facts.self.timing.renewMs) return { stay: mode, effects: [] };
  return { stay: { ...mode, freezeAsked: true }, effects: freezeGroups(facts.groups) };
}

/** A watchdog that counts already has to be opened at once. Another one waits for the word that this node is not disarmed. */
function mayOpen({ facts, sight }: GuardView): boolean {
  const { watchdog } = facts;
  return (watchdog.kind === 'closed' && watchdog.leftCounting) || (sight !== null && sight.disarm === null);
}

/** This boot holds the permit: renew under the same epoch, then serve. Groups of other epochs go first. */
function planReturn(epoch: number, stay: Starting, effects: GuardEffect[], view: GuardView): GuardStep {
  const letGo = planLetGo(epoch, null, view);
  if (letGo !== null) return letGo;
  if (view.sight?.heartbeat?.disarmed === true) {
    // An earlier guard had let go, or was about to: the watchdog may count or not, and has to be open before anything else is said.
    return {
      move: { kind: 'arming', sinceBootMs: view.nowBootMs, epoch, carriedBootMs: view.lookedBootMs },
      because: `epoch ${epoch} is ours and its newest heartbeat says disarmed`,
    };
  }
  const strays = view.facts.groups.filter((group) => group.epoch !== epoch);
  if (strays.length > 0) return { stay, effects: [...effects, ...stopGroups(strays)], wish: { kind: 'renew' } };
  if (isBack(epoch, view))
    return { move: serveAgain(epoch, view), because: `epoch ${epoch} is ours: a renewal under it was acknowledged` };
  return { stay, effects, wish: { kind: 'renew' } };
}

/** Two machines of one name would take the permit from each other for ever, and each take would look like a reboot of the other. */
function findRival(mode: Starting, { sight, nowBootMs }: GuardView): Rival | null {
  const permit = sight?.permit?.value;
  if (permit?.state !== 'granted') return null;
  const heartbeatRevision = sight?.heartbeat?.modRevision ?? 0n;
  const known = mode.rival?.bootId === permit.bootId ? mode.rival : null;
  if (known?.heartbeatRevision === heartbeatRevision) return known;
  return { bootId: permit.bootId, heartbeatRevision, sinceBootMs: nowBootMs, seenAlive: known !== null };
}

/** An earlier boot of ours is silent from the start. A machine that was seen alive has to be silent until its own rules stopped it. */
function rivalSilenceMs(rival: Rival, timing: Timing): number {
  return rival.seenAlive ? timing.claimMs : rivalRenewals * timing.renewMs;
}
