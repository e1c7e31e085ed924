import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import {
  calm,
  closed,
  commitOf,
  frozen,
  granted,
  kinds,
  revoked,
  running,
  serving,
  sight,
  starting,
  timing,
} from '#core/ha/guard-examples.ts';
import { describeGuard, readLeft } from '#core/ha/guard-report.ts';
import { planGuard, startGuard } from '#core/ha/guard-rules.ts';
import type { GuardFacts, GuardMode, GuardPlan, GuardState, RecordSight } from '#core/ha/guard-state.ts';
import { readSight } from '#core/ha/guard-store.ts';
import { keys } from '#core/ha/keys.ts';

const order = { mode: 'hold', modRevision: 25n };
const ordered: RecordSight = { ...sight(granted(4)), disarm: order };
/** The newest heartbeat says disarmed. */
const saidSo = (seen: RecordSight): RecordSight => ({
  ...seen,
  heartbeat: seen.heartbeat && { ...seen.heartbeat, disarmed: true },
});
const busy: GuardFacts = { ...calm, groups: running };
const quiet: GuardFacts = { ...busy, watchdog: closed };

function within(mode: GuardMode, seen: RecordSight | null): GuardState {
  const state = serving();
  return { mode, store: { ...state.store, sight: seen } };
}

const disarmed = (seen: RecordSight | null = saidSo(ordered)) =>
  within({ kind: 'disarmed', sinceBootMs: 100_000, epoch: 4, thawedBootMs: null }, seen);
const arming = (seen: RecordSight | null, carriedBootMs: number | null = null) =>
  within({ kind: 'arming', sinceBootMs: 100_000, epoch: 4, carriedBootMs }, seen);
const phaseOf = (plan: GuardPlan) => {
  const text = commitOf(plan)?.writes.find(({ key }) => key === keys.nodeHeartbeat('n1'))?.value;
  return text === null || text === undefined ? undefined : JSON.parse(text).phase;
};
const committed = { kind: 'committed', revision: 30n } as const;

test('the order is read from the store and compared with every write', () => {
  const value = JSON.stringify({ mode: 'hold', managerEpoch: 1, askedAtMs: 0 });
  const seen = readSight('n1', [{ key: keys.nodeDisarm('n1'), value, modRevision: 25n }]);
  assert.deepEqual(seen.disarm, order);
  const heartbeat = { key: keys.nodeHeartbeat('n1'), value: '{"seq":7,"phase":"disarmed"}', modRevision: 20n };
  assert.equal(readSight('n1', [heartbeat]).heartbeat?.disarmed, true);
  for (const seenNow of [ordered, sight(granted(4))]) {
    const plan = planGuard({ ...serving(), store: { ...serving().store, sight: seenNow } }, busy, 101_000);
    const compare = commitOf(plan)?.compares.find(({ key }) => key === keys.nodeDisarm('n1'));
    assert.equal(compare?.modRevision, seenNow.disarm?.modRevision ?? 0n);
  }
});

test('lets go only once a heartbeat that says so was acknowledged; until then it pets and the limit holds', () => {
  const state = { ...serving(), store: { ...serving().store, sight: ordered } };
  const asked = planGuard(state, busy, 101_000);
  assert.deepEqual([asked.next.mode.kind, kinds(asked), phaseOf(asked)], ['serving', ['pet', 'commit'], 'disarmed']);
  const waiting = planGuard(asked.next, busy, 105_900);
  assert.deepEqual(waiting.effects, [{ kind: 'pet', notAfterBootMs: 105_990 }]);
  assert.equal(planGuard(asked.next, busy, 105_990).next.mode.kind, 'freezing');
  assert.equal(planGuard(asked.next, { ...busy, answer: committed }, 107_000).next.mode.kind, 'freezing');
  const done = planGuard(asked.next, { ...busy, answer: committed }, 101_020);
  assert.deepEqual([done.next.mode.kind, kinds(done)], ['disarmed', ['disarm']]);
  assert.match(done.because.join(), /disarmed \(hold\): a heartbeat that says so was acknowledged/);
});

test('an acknowledged renewal that says serving lets nothing go', () => {
  const asked = planGuard(serving(), busy, 101_000);
  const late = { ...asked.next, store: { ...asked.next.store, sight: ordered } };
  assert.equal(planGuard(late, { ...busy, answer: committed }, 101_020).next.mode.kind, 'serving');
});

test('disarmed: no limit, no freeze, no kill, whatever the store and the clock do', () => {
  const hour = 3_600_000;
  const later = planGuard(disarmed(), quiet, 100_000 + hour);
  assert.deepEqual([later.next.mode.kind, kinds(later), phaseOf(later)], ['disarmed', ['commit'], 'disarmed']);
  const lost = planGuard(later.next, { ...quiet, answer: { kind: 'failed', problem: 'cut' } }, 100_000 + 2 * hour);
  assert.deepEqual([lost.next.mode.kind, kinds(lost)], ['disarmed', ['look']]);
  assert.deepEqual(kinds(planGuard(lost.next, quiet, 100_000 + 9 * hour)), []);
});

test('disarmed: a watchdog that cannot be closed is petted on, one that failed to close or was left counting is closed', () => {
  const state = disarmed();
  const with_ = (watchdog: GuardFacts['watchdog']) => kinds(planGuard(state, { ...busy, watchdog }, 100_500));
  assert.deepEqual(with_({ kind: 'open', timeoutMs: 6_000, stuckArmed: true }), ['pet']);
  assert.deepEqual(with_({ kind: 'open', timeoutMs: 6_000, stuckArmed: false }), ['disarm']);
  assert.deepEqual(with_({ kind: 'failed', problem: 'EIO' }), ['disarm']);
  assert.deepEqual(with_({ kind: 'closed', leftCounting: true }), ['open-watchdog']);
  assert.deepEqual(with_(closed), []);
  const stuck: GuardFacts = { ...busy, watchdog: { kind: 'open', timeoutMs: 6_000, stuckArmed: true } };
  assert.match(describeGuard(state, stuck, null, 100_500).problems.join(), /the watchdog cannot be closed/);
});

test('disarmed and the permit lost: the guests are killed as always', () => {
  const plan = planGuard(disarmed({ ...sight(revoked(5)), disarm: order }), quiet, 100_500);
  assert.deepEqual([plan.next.mode.kind, kinds(plan)], ['clearing', ['freeze', 'kill']]);
});

test('disarmed and asked or ordered to release: guests killed, permit given back', () => {
  const asked = planGuard(disarmed(), { ...quiet, releaseAsked: 'power off' }, 100_500);
  assert.deepEqual([asked.next.mode.kind, kinds(asked)], ['releasing', ['freeze', 'kill']]);
  const told = planGuard(disarmed({ ...saidSo(ordered), release: { reason: 'agent silent', modRevision: 26n } }), quiet, 100_500);
  assert.equal(told.next.mode.kind, 'releasing');
  const gone = planGuard(told.next, { ...calm, watchdog: closed }, 101_000);
  assert.equal(commitOf(gone)?.call, 'release');
  assert.equal(commitOf(gone)?.compares.find(({ key }) => key === keys.nodeDisarm('n1'))?.modRevision, 25n);
});

test('a clean stop while disarmed: with guests it ends and leaves them and the permit; without, it gives the permit back', () => {
  const armed = planGuard(disarmed(), { ...busy, stop: true }, 100_500);
  assert.deepEqual(kinds(armed), ['disarm']);
  assert.deepEqual(kinds(planGuard(disarmed(), { ...quiet, stop: true }, 100_500)), ['exit']);
  assert.deepEqual(kinds(planGuard(disarmed(), { ...quiet, handOver: true }, 100_500)), ['exit']);
  const empty: GuardFacts = { ...quiet, stop: true, groups: [{ epoch: 4, frozen: false, populated: false }] };
  const first = planGuard(disarmed(), empty, 101_000);
  assert.deepEqual([first.next.mode.kind, kinds(first)], ['releasing', ['remove-group']]);
  assert.equal(commitOf(planGuard(first.next, { ...empty, groups: [] }, 101_020))?.call, 'release');
});

test('a watchdog that cannot be closed would reset the host: a stop waits until no guest runs, a successor is in time', () => {
  const stuck: GuardFacts = { ...busy, watchdog: { kind: 'open', timeoutMs: 6_000, stuckArmed: true } };
  assert.deepEqual(kinds(planGuard(disarmed(), { ...stuck, stop: true }, 100_500)), ['pet']);
  assert.deepEqual(kinds(planGuard(disarmed(), { ...stuck, handOver: true }, 100_500)), ['pet', 'exit']);
});

test('armed again: guard.json says so, then the watchdog opens, then serving is said, then it serves', () => {
  const said = { ...quiet, fileSaysDisarmed: true };
  const first = planGuard(disarmed(saidSo(sight(granted(4)))), said, 101_000);
  assert.deepEqual([first.next.mode.kind, kinds(first)], ['arming', []]);
  const second = planGuard(first.next, quiet, 101_020);
  assert.deepEqual(second.effects[0], { kind: 'open-watchdog', notAfterBootMs: null, whenRefused: 'disarm' });
  assert.equal(commitOf(second), undefined);
  const third = planGuard(second.next, { ...busy, answer: { kind: 'sight', sight: saidSo(sight(granted(4))) } }, 101_600);
  assert.deepEqual([kinds(third), phaseOf(third)], [['pet', 'commit'], 'serving']);
  assert(third.next.mode.kind === 'arming');
  assert.equal(third.next.mode.carriedBootMs, 101_600, 'the limit counts from the first heartbeat that can be claimed');
  assert.equal(describeGuard(third.next, busy, null, 101_600).phase, 'arming');
  const serves = planGuard(third.next, { ...busy, answer: committed }, 101_700);
  assert(serves.next.mode.kind === 'serving');
  assert.equal(serves.next.mode.renewedBootMs, 101_600);
});

test('arming without an answer freezes at the limit, as serving does', () => {
  const sent = planGuard(arming(saidSo(sight(granted(4)))), busy, 101_000);
  assert.deepEqual(kinds(planGuard(sent.next, busy, 106_980)), ['pet']);
  const late = planGuard(sent.next, busy, 106_990);
  assert.deepEqual([late.next.mode.kind, kinds(late)], ['freezing', ['freeze']]);
});

test('arming meets a new order to disarm: it has to be acknowledged anew', () => {
  const asked = planGuard(arming(ordered, 100_000), busy, 101_000);
  assert.deepEqual([kinds(asked), phaseOf(asked)], [['pet', 'commit'], 'disarmed']);
  assert.equal(planGuard(asked.next, { ...busy, answer: committed }, 101_020).next.mode.kind, 'disarmed');
});

test('arming with a watchdog that does not open or does not fit: guests killed, permit given back', () => {
  const slow: GuardFacts = { ...busy, watchdog: { kind: 'open', timeoutMs: 60_000, stuckArmed: false } };
  const failed: GuardFacts = { ...busy, watchdog: { kind: 'failed', problem: 'no such device' } };
  for (const facts of [slow, failed]) {
    const plan = planGuard(arming(saidSo(sight(granted(4)))), facts, 101_000);
    assert.deepEqual([plan.next.mode.kind, kinds(plan)], ['releasing', ['freeze', 'kill']]);
  }
});

test('a new guard of the boot goes by guard.json: it leaves guests and watchdog alone, with the store and without', () => {
  const { disarmedEpoch } = readLeft({ phase: 'disarmed', epoch: 4 }, false);
  const state = startGuard(timing, 100_000, { disarmedEpoch });
  const said = { ...quiet, fileSaysDisarmed: true };
  const look = planGuard(state, said, 100_000);
  assert.deepEqual([look.next.mode.kind, kinds(look)], ['disarmed', ['look']]);
  const alone = planGuard(look.next, { ...said, answer: { kind: 'failed', problem: 'cut' } }, 200_000);
  assert.deepEqual([alone.next.mode.kind, kinds(alone)], ['disarmed', ['look']]);
  const seen = planGuard(look.next, { ...said, answer: { kind: 'sight', sight: saidSo(ordered) } }, 100_020);
  assert.deepEqual([kinds(seen), phaseOf(seen)], [['commit'], 'disarmed']);
});

test('what guard.json says of the watchdog counts only where it is told before it changes', () => {
  assert.deepEqual(readLeft(null, false), { disarmedEpoch: null, leftCounting: false });
  assert.deepEqual(readLeft({ phase: 'disarmed', epoch: 4 }, true), { disarmedEpoch: 4, leftCounting: true });
  assert.deepEqual(readLeft({ phase: 'released', epoch: null }, false), { disarmedEpoch: null, leftCounting: false });
  assert.deepEqual(readLeft({ phase: 'starting', epoch: null }, false), { disarmedEpoch: null, leftCounting: true });
});

test('a guard that ended between the acknowledgement and guard.json: its successor opens the watchdog before it says anything but disarmed', () => {
  const left: GuardFacts = { ...quiet, watchdog: { kind: 'closed', leftCounting: true } };
  const look = planGuard(starting(null), left, 100_000);
  assert.deepEqual(kinds(look), ['look']);
  const seen = planGuard(look.next, { ...left, answer: { kind: 'sight', sight: saidSo(sight(granted(4))) } }, 100_020);
  assert.deepEqual(seen.effects[0], { kind: 'open-watchdog', notAfterBootMs: 105_990, whenRefused: 'disarm' });
  assert.equal(commitOf(seen), undefined);
  const opened = planGuard(seen.next, busy, 101_000);
  assert.equal(phaseOf(opened), 'serving');
  const still = planGuard(look.next, { ...left, answer: { kind: 'sight', sight: saidSo(ordered) } }, 100_020);
  const done = planGuard(still.next, { ...busy, answer: committed }, 100_040);
  assert.deepEqual([phaseOf(still), done.next.mode.kind, kinds(done)], ['disarmed', 'disarmed', ['disarm']]);
});

test('a new boot while disarmed takes its permit with a heartbeat that says so, and opens no watchdog and no group', () => {
  const fresh: GuardFacts = { ...calm, watchdog: closed };
  const look = planGuard(starting(null), fresh, 100_000);
  assert.deepEqual(kinds(look), ['look']);
  const seen = { ...sight(revoked(5)), disarm: order };
  const take = planGuard(look.next, { ...fresh, answer: { kind: 'sight', sight: seen } }, 100_020);
  assert.deepEqual([commitOf(take)?.call, phaseOf(take), kinds(take)], ['take', 'disarmed', ['commit']]);
  const done = planGuard(take.next, { ...fresh, answer: committed }, 100_040);
  assert.deepEqual([done.next.mode.kind, kinds(done)], ['disarmed', []]);
  assert.equal(describeGuard(done.next, fresh, null, 100_040).phase, 'disarmed');
});

test('a frozen guard that learns of the order thaws by its own rules first', () => {
  const state = within({ kind: 'frozen', sinceBootMs: 106_000, epoch: 4 }, ordered);
  const asked = planGuard(state, { ...calm, groups: frozen }, 110_000);
  assert.equal(phaseOf(asked), 'frozen');
  const back = planGuard(asked.next, { ...calm, groups: frozen, answer: committed }, 110_020);
  assert.deepEqual([back.next.mode.kind, kinds(back)], ['serving', ['pet', 'thaw']]);
  assert.equal(phaseOf(planGuard(back.next, busy, 111_000)), 'disarmed');
});

test('guests that an earlier guard froze before it could know are thawed', () => {
  const plan = planGuard(disarmed(), { ...quiet, groups: frozen }, 100_500);
  assert.deepEqual(plan.effects, [{ kind: 'thaw', epoch: 4, notAfterBootMs: null }]);
  assert.equal(describeGuard(plan.next, quiet, null, 100_500).thawedBootMs, 100_500);
});
