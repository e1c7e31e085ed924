import { startGuard } from '#core/ha/guard-rules.ts';
import type { GroupFact, GuardEffect, GuardFacts, GuardPlan, GuardState, RecordSight } from '#core/ha/guard-state.ts';
import type { Permit } from '#core/ha/records.ts';
import { timingProfiles } from '#core/ha/timing.ts';

/** What the guard's tests begin from: node n1 in boot1, epoch 4, the standard profile. */
export const timing = timingProfiles.standard;
const self = { node: 'n1', bootId: 'boot1', timing };
export const calm: GuardFacts = {
  self,
  wallMs: 1_700_000_000_000,
  answer: null,
  groups: [],
  watchdog: { kind: 'open', timeoutMs: 6_000, stuckArmed: false },
  agent: null,
  releaseAsked: null,
  stop: false,
  handOver: false,
  fileSaysDisarmed: false,
};
export const closed = { kind: 'closed', leftCounting: false } as const;
export const running: GroupFact[] = [{ epoch: 4, frozen: false, populated: true }];
export const frozen: GroupFact[] = [{ epoch: 4, frozen: true, populated: true }];

export const granted = (epoch: number, bootId = 'boot1'): Permit => ({
  state: 'granted',
  epoch,
  bootId,
  claimMs: 15_000,
  grantedAtMs: 0,
});
export const revoked = (epoch: number): Permit => ({
  state: 'revoked',
  epoch,
  revokedEpoch: epoch - 1,
  proof: { kind: 'silence', heartbeatSeq: 1, silentMs: 15_000, claimMs: 15_000, observer: 'n2' },
  managerEpoch: 1,
  revokedAtMs: 0,
});

export function sight(permit: Permit | null, heartbeatRevision = 20n): RecordSight {
  return {
    permit: permit === null ? null : { value: permit, modRevision: 10n },
    heartbeat: { text: '{"seq":7}', seq: 7, disarmed: false, modRevision: heartbeatRevision },
    release: null,
    disarm: null,
  };
}

/** Serving epoch 4 by a renewal sent at 100 000, with nothing in flight. */
export function serving(renewedBootMs = 100_000): GuardState {
  const { store } = startGuard(timing, renewedBootMs, { disarmedEpoch: null });
  return {
    mode: { kind: 'serving', sinceBootMs: 90_000, epoch: 4, renewedBootMs, thawedBootMs: null },
    store: { ...store, sight: sight(granted(4)), nextCallBootMs: renewedBootMs + timing.renewMs },
  };
}

export function starting(seen: RecordSight | null, nowBootMs = 100_000): GuardState {
  const state = startGuard(timing, nowBootMs, { disarmedEpoch: null });
  return { ...state, store: { ...state.store, sight: seen } };
}

export const kinds = (plan: GuardPlan) => plan.effects.map(({ kind }) => kind);
export const commitOf = (plan: GuardPlan) =>
  plan.effects.find((effect): effect is Extract<GuardEffect, { kind: 'commit' }> => effect.kind === 'commit');
