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
} from '#core/ha/guard-examples.ts';
import { describeGuard } from '#core/ha/guard-report.ts';
import { planGuard } from '#core/ha/guard-rules.ts';
import type { GroupFact, GuardState } from '#core/ha/guard-state.ts';
import { readSight } from '#core/ha/guard-store.ts';
import { keys } from '#core/ha/keys.ts';

test('serving: pets until the limit of the last renewal, and renews when it is due', () => {
  const early = planGuard(serving(), { ...calm, groups: running }, 100_500);
  assert.deepEqual(early.effects, [{ kind: 'pet', notAfterBootMs: 105_990 }]);
  const due = planGuard(serving(), { ...calm, groups: running }, 101_000);
  assert.deepEqual(kinds(due), ['pet', 'commit']);
  assert.deepEqual(
    commitOf(due)?.compares.map(({ key, modRevision }) => [key, modRevision]),
    [
      [keys.nodePermit('n1'), 10n],
      [keys.nodeHeartbeat('n1'), 20n],
      [keys.nodeRelease('n1'), 0n],
      [keys.nodeDisarm('n1'), 0n],
    ],
  );
  assert.deepEqual(
    commitOf(due)?.writes.map(({ key }) => key),
    [keys.nodeHeartbeat('n1')],
  );
});

test('one call at a time: while one is in flight no other leaves, and pets go on', () => {
  const { next } = planGuard(serving(), { ...calm, groups: running }, 101_000);
  assert.deepEqual(kinds(planGuard(next, { ...calm, groups: running }, 102_500)), ['pet']);
});

test('a late answer counts from when the renewal was sent, not from when it came', () => {
  const { next } = planGuard(serving(), { ...calm, groups: running }, 101_000);
  const late = planGuard(next, { ...calm, groups: running, answer: { kind: 'committed', revision: 30n } }, 104_000);
  assert(late.next.mode.kind === 'serving');
  assert.equal(late.next.mode.renewedBootMs, 101_000);
  assert.deepEqual(late.effects[0], { kind: 'pet', notAfterBootMs: 106_990 });
});

test('an answer that comes after its own limit carries nothing: the clock is looked at first', () => {
  const { next } = planGuard(serving(), { ...calm, groups: running }, 101_000);
  const plan = planGuard(next, { ...calm, groups: running, answer: { kind: 'committed', revision: 30n } }, 107_000);
  assert.equal(plan.next.mode.kind, 'freezing');
  assert.deepEqual(kinds(plan).slice(0, 1), ['freeze']);
  assert.ok(!kinds(plan).includes('pet'));
});

test('at the limit: freeze, no pet until the kernel confirms, then pets without a limit', () => {
  const first = planGuard(serving(), { ...calm, groups: running }, 105_990);
  assert.deepEqual(kinds(first), ['freeze', 'commit']);
  const second = planGuard(first.next, { ...calm, groups: running }, 106_010);
  assert.deepEqual(kinds(second), ['freeze']);
  const third = planGuard(second.next, { ...calm, groups: frozen }, 106_030);
  assert.equal(third.next.mode.kind, 'frozen');
  assert.deepEqual(third.effects, [{ kind: 'pet', notAfterBootMs: null }]);
});

test('a "frozen" that was read before this freeze was asked for confirms nothing', () => {
  const plan = planGuard(serving(), { ...calm, groups: frozen }, 106_000);
  assert.equal(plan.next.mode.kind, 'freezing');
  assert.ok(!kinds(plan).includes('pet'));
});

test('not confirmed within half the watchdog time: never a pet again, whatever comes', () => {
  let { next } = planGuard(serving(), { ...calm, groups: running }, 106_000);
  ({ next } = planGuard(next, { ...calm, groups: running }, 109_000));
  assert.equal(next.mode.kind, 'doomed');
  const later = planGuard(next, { ...calm, groups: frozen, answer: { kind: 'committed', revision: 30n } }, 109_100);
  assert.equal(later.next.mode.kind, 'doomed');
  assert.deepEqual(kinds(later), ['freeze', 'kill']);
  assert.match(describeGuard(later.next, calm, null, 109_100).problems.join(), /could not be frozen/);
});

test('frozen and renewed under the same epoch with time left: thaw; with too little left: stay frozen', () => {
  const state: GuardState = { ...serving(), mode: { kind: 'frozen', sinceBootMs: 106_000, epoch: 4 } };
  const asked = planGuard(state, { ...calm, groups: frozen }, 110_000);
  assert.equal(commitOf(asked)?.call, 'renew');
  const committed = { ...calm, groups: frozen, answer: { kind: 'committed', revision: 30n } } as const;
  const thawed = planGuard(asked.next, committed, 111_000);
  assert.equal(thawed.next.mode.kind, 'serving');
  assert.deepEqual(thawed.effects.slice(0, 2), [
    { kind: 'pet', notAfterBootMs: 115_990 },
    { kind: 'thaw', epoch: 4, notAfterBootMs: 115_990 },
  ]);
  const tooLate = planGuard(asked.next, committed, 115_500);
  assert.equal(tooLate.next.mode.kind, 'frozen');
  assert.ok(!kinds(tooLate).includes('thaw'));
});

test('an answer that was lost is found by the next look, and counts only if our very value stands there', () => {
  const asked = planGuard(serving(), { ...calm, groups: running }, 101_000);
  const value = commitOf(asked)?.writes[0]?.value ?? '';
  const lost = planGuard(asked.next, { ...calm, groups: running, answer: { kind: 'failed', problem: 'cut' } }, 102_000);
  assert.deepEqual(kinds(lost), ['pet', 'look']);
  const found = readSight('n1', [
    { key: keys.nodePermit('n1'), value: JSON.stringify(granted(4)), modRevision: 10n },
    { key: keys.nodeHeartbeat('n1'), value, modRevision: 31n },
  ]);
  const answered = planGuard(lost.next, { ...calm, groups: running, answer: { kind: 'sight', sight: found } }, 102_100);
  assert(answered.next.mode.kind === 'serving');
  assert.equal(answered.next.mode.renewedBootMs, 101_000);
  const other = { ...found, heartbeat: { text: `${value} `, seq: 8, disarmed: false, modRevision: 31n } };
  const unknown = planGuard(lost.next, { ...calm, groups: running, answer: { kind: 'sight', sight: other } }, 102_100);
  assert(unknown.next.mode.kind === 'serving');
  assert.equal(unknown.next.mode.renewedBootMs, 100_000);
});

test('a slow store is given longer deadlines, up to half of soft, and the short one again when it is quick', () => {
  let state = serving();
  const deadlines: number[] = [];
  for (const nowBootMs of [101_000, 102_000, 103_000, 104_000]) {
    const plan = planGuard(state, { ...calm, groups: running }, nowBootMs);
    const call = plan.effects.find((effect) => effect.kind === 'look' || effect.kind === 'commit');
    assert(call !== undefined);
    deadlines.push(call.deadlineMs);
    state = planGuard(plan.next, { ...calm, groups: running, answer: { kind: 'failed', problem: 'slow' } }, nowBootMs + 1).next;
  }
  assert.deepEqual(deadlines, [900, 1_800, 3_000, 3_000]);
  const look = planGuard(state, { ...calm, groups: running }, 105_000);
  const quick = planGuard(look.next, { ...calm, groups: running, answer: { kind: 'sight', sight: sight(granted(4)) } }, 105_010);
  assert.equal(commitOf(quick)?.deadlineMs, 900);
});

test('a permit that is lost: freeze and kill in the same step, pets only once still, then look anew', () => {
  const state: GuardState = { ...serving(), store: { ...serving().store, sight: sight(revoked(5)) } };
  const first = planGuard(state, { ...calm, groups: running }, 101_000);
  assert.equal(first.next.mode.kind, 'clearing');
  assert.deepEqual(kinds(first), ['freeze', 'kill']);
  const still = planGuard(first.next, { ...calm, groups: frozen }, 101_020);
  assert.deepEqual(kinds(still), ['pet', 'freeze', 'kill']);
  const empty = planGuard(still.next, { ...calm, groups: [{ epoch: 4, frozen: true, populated: false }] }, 101_040);
  assert.deepEqual(kinds(empty), ['pet', 'remove-group']);
  const gone = planGuard(empty.next, calm, 101_060);
  assert.equal(gone.next.mode.kind, 'starting');
  assert.deepEqual(kinds(gone), ['pet', 'look']);
});

test('a new epoch is taken only when no group is left, with a heartbeat in the same commit', () => {
  const dirty = planGuard(starting(sight(revoked(5))), { ...calm, groups: running }, 100_000);
  assert.equal(commitOf(dirty), undefined);
  assert.equal(dirty.next.mode.kind, 'clearing');
  const clean = planGuard(starting(sight(revoked(5))), calm, 100_000);
  const commit = commitOf(clean);
  assert.equal(commit?.call, 'take');
  const values = Object.fromEntries(commit?.writes.map(({ key, value }) => [key, JSON.parse(value ?? 'null')]) ?? []);
  const pastClaims = [{ epoch: 4, atMs: 0 }];
  assert.deepEqual(values[keys.nodePermit('n1')], { ...granted(6), grantedAtMs: calm.wallMs, pastClaims }, 'the claim is kept');
  assert.equal(values[keys.nodeHeartbeat('n1')].seq, 8);
});

test('no permit without a watchdog that is open and quick enough', () => {
  const unopened = planGuard(starting(sight(null)), { ...calm, watchdog: closed }, 100_000);
  assert.deepEqual(unopened.effects, [{ kind: 'open-watchdog', notAfterBootMs: null, whenRefused: 'disarm' }]);
  const slow = { ...calm, watchdog: { kind: 'open', timeoutMs: 60_000, stuckArmed: false } } as const;
  const refused = planGuard(starting(sight(null)), slow, 100_000);
  assert.deepEqual([refused.next.mode.kind, kinds(refused)], ['released', ['disarm']]);
  assert.match(describeGuard(refused.next, slow, null, 100_000).problems.join(), /after 60000 ms, later than the 6000 ms/);
  const failed = { ...calm, watchdog: { kind: 'failed', problem: 'no such device' } } as const;
  assert.match(
    describeGuard(planGuard(starting(null), failed, 100_000).next, failed, null, 100_000).problems.join(),
    /no such device/,
  );
});

test('a watchdog that stops working while guests run: they are killed and the permit is given back', () => {
  const failed = { ...calm, watchdog: { kind: 'failed', problem: 'gone' } } as const;
  const first = planGuard(serving(), { ...failed, groups: running }, 100_500);
  assert.deepEqual([first.next.mode.kind, kinds(first)], ['releasing', ['freeze', 'kill']]);
  const release = commitOf(planGuard(first.next, failed, 101_000));
  assert.equal(release?.call, 'release');
});

test('a restarted guard with guests: neither pet nor opening before its own renewal is acknowledged', () => {
  const unopened = { ...calm, groups: running, watchdog: closed };
  const look = planGuard(starting(null), unopened, 100_000);
  assert.deepEqual(kinds(look), ['look']);
  const renew = planGuard(look.next, { ...unopened, answer: { kind: 'sight', sight: sight(granted(4)) } }, 100_020);
  assert.deepEqual(kinds(renew), ['commit']);
  assert.equal(commitOf(renew)?.call, 'renew');
  const serves = planGuard(renew.next, { ...unopened, answer: { kind: 'committed', revision: 30n } }, 100_040);
  assert.equal(serves.next.mode.kind, 'serving');
  assert.deepEqual(serves.effects, [{ kind: 'open-watchdog', notAfterBootMs: 106_010, whenRefused: 'keep-armed' }]);
});

test('a restarted guard without the store freezes the guests it found, and may then open and pet', () => {
  const unopened = { ...calm, groups: running, watchdog: closed };
  const { next } = planGuard(starting(null), unopened, 100_000);
  const freeze = planGuard(next, unopened, 101_000);
  assert.deepEqual(kinds(freeze), ['freeze']);
  const still = planGuard(freeze.next, { ...unopened, groups: frozen }, 101_100);
  assert.deepEqual(kinds(still), ['open-watchdog']);
});

test('the permit of an earlier boot is taken when its heartbeat stands still; a living rival is waited for and reported', () => {
  const old = sight(granted(4, 'boot0'));
  let plan = planGuard(starting(old), calm, 100_000);
  assert.deepEqual(kinds(plan), ['pet', 'look']);
  plan = planGuard(plan.next, { ...calm, answer: { kind: 'sight', sight: old } }, 100_100);
  const taken = planGuard(plan.next, calm, 103_000);
  assert.equal(commitOf(taken)?.call, 'take');
  const alive = planGuard(
    { ...taken.next, store: { ...plan.next.store, sight: sight(granted(4, 'boot0'), 21n) } },
    calm,
    103_000,
  );
  assert.equal(commitOf(alive), undefined);
  assert.match(describeGuard(alive.next, calm, null, 103_000).problems.join(), /another machine \(boot boot0\)/);
  const answer = { kind: 'sight', sight: sight(granted(4, 'boot0'), 21n) } as const;
  const waiting = planGuard(alive.next, { ...calm, answer }, 117_000);
  assert.equal(commitOf(waiting), undefined);
  assert.equal(commitOf(planGuard(waiting.next, { ...calm, answer }, 118_000))?.call, 'take');
});

test('a clean stop: the group goes before the permit, the permit before the watchdog, the watchdog before the end', () => {
  const stop = { ...calm, stop: true };
  const busy = planGuard(serving(), { ...stop, groups: running }, 100_500);
  assert.equal(busy.next.mode.kind, 'serving');
  const empty: GroupFact[] = [{ epoch: 4, frozen: false, populated: false }];
  const first = planGuard(serving(), { ...stop, groups: empty }, 101_000);
  assert.deepEqual(kinds(first), ['pet', 'remove-group']);
  const second = planGuard(first.next, stop, 101_020);
  assert.equal(commitOf(second)?.call, 'release');
  assert.equal(commitOf(second)?.compares[1]?.modRevision, 20n, 'a renewal that follows must undo a release that is late');
  const third = planGuard(second.next, { ...stop, answer: { kind: 'committed', revision: 30n } }, 101_040);
  assert.deepEqual(kinds(third), ['disarm']);
  const last = planGuard(third.next, { ...stop, watchdog: closed }, 101_060);
  assert.deepEqual(kinds(last), ['exit']);
});

test('a clean stop that meets a guest just started goes back to serving by way of a renewal', () => {
  const empty: GroupFact[] = [{ epoch: 4, frozen: false, populated: false }];
  const { next } = planGuard(serving(), { ...calm, stop: true, groups: empty }, 100_500);
  const back = planGuard(next, { ...calm, stop: true, groups: running }, 100_520);
  assert.deepEqual([back.next.mode.kind, kinds(back)], ['starting', []]);
});

test('a watchdog that cannot be disarmed is petted as long as the guard lives', () => {
  const stuck = { ...calm, watchdog: { kind: 'open', timeoutMs: 6_000, stuckArmed: true } } as const;
  const state: GuardState = {
    ...serving(),
    mode: { kind: 'released', sinceBootMs: 100_000, reason: 'asked', until: 'request-gone' },
  };
  assert.deepEqual(kinds(planGuard(state, { ...stuck, releaseAsked: 'asked' }, 100_500)), ['pet']);
});

test('a record that is not what it should be is refused with its key', () => {
  const entry = (value: string) => [{ key: keys.nodePermit('n1'), value, modRevision: 1n }];
  assert.throws(() => readSight('n1', entry('{')), /nodes\/n1\/permit is not JSON/);
  assert.throws(() => readSight('n1', entry('{"state":"granted","bootId":"b","epoch":-1}')), /epoch -1/);
  assert.throws(() => readSight('n1', entry('{"state":"maybe","epoch":1}')), /not a permit: state "maybe"/);
});
