import type { GuardFacts, GuardMode, GuardState } from '#core/ha/guard-state.ts';
import { describeUnfit } from '#core/ha/guard-steps.ts';

/** What a guard says of itself to the agent and to people. */
export type GuardReport = {
  phase: GuardMode['kind'];
  /** Null where no guest may be kept. Guests may be started only while the phase is `serving`. */
  epoch: number | null;
  sinceBootMs: number;
  thawedBootMs: number | null;
  /** Why the node cannot serve HA; texts do not change while the reason does not. */
  problems: string[];
};

/** What an earlier guard of this boot left to the next one. */
export type GuardLeft = {
  /** It ended disarmed, under this epoch; null: it did not. */
  disarmedEpoch: number | null;
  /** It may have left the watchdog counting. */
  leftCounting: boolean;
};

/**
 * What the last report of an earlier guard of this boot says; null: there was none, and none opens the watchdog before its first report. Reports
 * are written after the orders of a step, so one may be a step behind the watchdog; but each of these two phases is told before it is left.
 */
export function readLeft(report: Pick<GuardReport, 'phase' | 'epoch'> | null, watchdogOpen: boolean): GuardLeft {
  if (report === null) return { disarmedEpoch: null, leftCounting: false };
  const isClosed = !watchdogOpen && (report.phase === 'disarmed' || report.phase === 'released');
  return { disarmedEpoch: report.phase === 'disarmed' ? report.epoch : null, leftCounting: !isClosed };
}

/** Killing takes milliseconds; a group that is still there after this is reported. */
const stuckMs = 3_000;

/** `trouble`: what the last unanswered call of the store came to; null: it answers. */
export function describeGuard(
  { mode, store }: GuardState,
  facts: GuardFacts,
  trouble: string | null,
  nowBootMs: number,
): GuardReport {
  const problems: string[] = [];
  const unfit = describeUnfit(facts);
  if (unfit !== null) problems.push(unfit);
  if (mode.kind === 'released' && mode.until === 'restart' && unfit === null) {
    problems.push(`${mode.reason}; correct it and start the guard again`);
  }
  if (mode.kind === 'disarmed' && facts.watchdog.kind === 'open' && facts.watchdog.stuckArmed) {
    problems.push('disarmed, but the watchdog cannot be closed: it resets this host when the guard ends');
  }
  if (mode.kind === 'doomed')
    problems.push('the guests could not be frozen: the watchdog is no longer petted and resets this host');
  if (mode.kind === 'starting' && mode.rival?.seenAlive === true) {
    problems.push(
      `another machine (boot ${mode.rival.bootId}) serves under the name ${facts.self.node}; give one of them another name`,
    );
  }
  const stuck = (mode.kind === 'clearing' || mode.kind === 'releasing') && nowBootMs - mode.sinceBootMs >= stuckMs;
  if (stuck && facts.groups.length > 0) {
    problems.push(`guests of epoch ${facts.groups.map(({ epoch }) => epoch).join(', ')} were killed and are still there`);
  }
  if (mode.kind !== 'serving' && store.sight === null && trouble !== null) problems.push(`the store does not answer: ${trouble}`);
  return {
    phase: mode.kind,
    epoch: 'epoch' in mode ? mode.epoch : null,
    sinceBootMs: mode.sinceBootMs,
    thawedBootMs: 'thawedBootMs' in mode ? mode.thawedBootMs : null,
    problems,
  };
}
