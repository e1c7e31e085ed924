import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type GuestPlanFacts, planGuestAction } from '#core/guest/guest-plan.ts';
import type { GuestOrder, GuestRecord } from '#core/guest/guest-record.ts';
import { isFailureTold, nextStatus, planStatus, toldBegin, toldEnd } from '#core/guest/order-end.ts';
import { noteDeath, noteFailed, noteStarted, orderKey, type OrderTries, planRetry, triesUnder } from '#core/guest/order-tries.ts';
import type { ProcessState } from '#core/guest/process-state.ts';
import type { HaStatus } from '#core/ha/records.ts';

const order: GuestOrder = { id: 5, kind: 'run', nodeEpoch: 7, managerEpoch: 1, promote: null, lostAtMs: null, issuedAtMs: 0 };
const record: GuestRecord = {
  vmid: 100,
  name: 'db',
  config: { cores: 1, memoryMb: 512, disks: [], nics: [], boot: null },
  home: 'n1',
  generation: 2,
  order,
};
const entry = {
  state: { kind: 'active', seenRunning: false, recovered: false },
  node: 'n1',
  orderId: 5,
  failedNodes: [],
  returnTo: null,
  command: null,
  sinceMs: 0,
  because: '',
} as const;

/** What is told at `nowBootMs`, with the retries of the guest counted as the agent does it. */
function told(options: {
  record?: GuestRecord;
  state?: ProcessState;
  tries?: OrderTries;
  nowBootMs?: number;
  change?: Partial<GuestPlanFacts>;
}) {
  const tries = options.tries ?? triesUnder(null, orderKey(record));
  const nowBootMs = options.nowBootMs ?? 100_000;
  const facts: GuestPlanFacts = {
    self: 'n1',
    epoch: 7,
    record: options.record ?? record,
    want: 'started',
    process: options.state === undefined ? null : { generation: 2, nodeEpoch: 7, state: options.state },
    copy: { role: 'primary', generation: 2, handedOver: null, promotedFrom: null },
    began: null,
    ended: null,
    preCopied: false,
    retry: planRetry(tries, 1, nowBootMs),
    ending: null,
    ...options.change,
  };
  return planStatus(facts, planGuestAction(facts), tries, nowBootMs);
}

test('a guest that was to end and has is not told to have failed, though that could not be told at once', () => {
  const [end, handOver] = [{ kind: 'end', because: '' } as const, { kind: 'hand-over', to: null, because: '' } as const];
  assert.deepEqual([isFailureTold(end, false), isFailureTold(end, true), isFailureTold(handOver, false)], [false, true, true]);
  // So the next look finds nothing that it must leave as it is.
  const stopped = { state: 'stopped', because: 'this node ends', end: null };
  assert.deepEqual(told({ change: { ending: 'give-up', retry: { kind: 'gave-up', because: 'n2 does not answer' } } }), stopped);
});

test('a guest whose node came back only to end is not told to run on', () => {
  const stopped = { state: 'stopped', because: 'this node ends', end: null };
  assert.deepEqual(told({ change: { epoch: 8, ending: 'stop' } }), stopped);
  assert.equal(told({ change: { epoch: 8, ending: 'stop', hasFailed: true } }), null);
  assert.equal(told({ change: { epoch: null, ending: 'stop' } }), null);
  assert.equal(told({ change: { epoch: 8 } }), null);
});

test('a guest that is left alone and has ended is not told to run on', () => {
  for (const want of ['ignored', null] as const) {
    const change = { want };
    assert.deepEqual(told({ change }), { state: 'stopped', because: 'not managed, and it does not run', end: null });
    assert.equal(told({ state: 'running', change })?.state, 'running');
  }
});

test('why a guest failed is not covered by the word that it rests', () => {
  const held = { ...record, order: { ...order, kind: 'hold' as const } };
  assert.equal(told({ record: held })?.state, 'stopped');
  assert.equal(told({ record: held, change: { hasFailed: true } }), null);
});

test('an order to run has ended well once the guest runs, also when it was found running', () => {
  assert.deepEqual(told({ state: 'running' }), { state: 'running', because: 'runs', end: 'ok', promoted: null });
  const fresh = noteStarted(triesUnder(null, orderKey(record)), 99_999);
  assert.equal(told({ state: 'running', tries: fresh })?.end, 'ok');
  assert.equal(told({ state: 'unknown' }), null);
});

test('after a failed start, here or elsewhere, it is well only once it has stayed up', () => {
  const again = noteStarted(noteFailed(triesUnder(null, orderKey(record)), 'no', 90_000), 95_000);
  assert.equal(told({ state: 'running', tries: again, nowBootMs: 104_999 })?.end, null);
  assert.equal(told({ state: 'running', tries: again, nowBootMs: 105_000 })?.end, 'ok');
  const elsewhere = { ...record, ha: { ...entry, failedNodes: ['n2'] } };
  const first = noteStarted(triesUnder(null, orderKey(record)), 95_000);
  assert.equal(told({ state: 'running', record: elsewhere, tries: first, nowBootMs: 96_000 })?.end, null);
  assert.equal(told({ state: 'running', record: elsewhere, tries: first, nowBootMs: 105_000 })?.end, 'ok');
  assert.equal(told({ state: 'running', record: elsewhere })?.end, 'ok', 'found running: it ran long enough');
});

test('a start is tried again as often as allowed, after a pause, then the order has failed', () => {
  const once = noteFailed(triesUnder(null, orderKey(record)), 'no memory', 1_000);
  assert.equal(planRetry(once, 1, 2_999).kind, 'later');
  assert.equal(planRetry(once, 1, 3_000).kind, 'now');
  assert.deepEqual(told({ tries: once, nowBootMs: 2_000 }), {
    state: 'failed',
    because: 'try 1 of 2 failed: no memory; tried again soon',
    end: null,
  });
  const twice = noteFailed(once, 'no memory', 4_000);
  assert.deepEqual(told({ tries: twice, nowBootMs: 60_000 }), {
    state: 'failed',
    because: 'try 2 of 2 failed: no memory',
    end: 'failed',
  });
  assert.equal(planRetry(once, 0, 60_000).kind, 'gave-up');
  assert.equal(told({ tries: twice, change: { ended: 'failed' } }), null, 'it is told once');
});

test('a new order, epoch or generation is tried from the beginning', () => {
  const failed = noteFailed(noteFailed(triesUnder(null, orderKey(record)), 'no', 0), 'no', 0);
  for (const next of [
    { ...record, order: { ...order, id: 6 } },
    { ...record, order: { ...order, nodeEpoch: 8 } },
    { ...record, generation: 3 },
  ]) {
    assert.equal(planRetry(triesUnder(failed, orderKey(next)), 1, 0).kind, 'now');
  }
  assert.equal(planRetry(triesUnder(failed, orderKey(record)), 1, 0).kind, 'gave-up');
});

test('an end soon after the start is a failed start; a later one is not, and the count begins anew', () => {
  const started = noteStarted(noteFailed(triesUnder(null, orderKey(record)), 'no', 0), 5_000);
  const soon = noteDeath(started, 'exit code 1', 14_999);
  assert.equal(soon.failed, 2);
  assert.match(soon.because, /ended 9999 ms after its start: exit code 1/);
  assert.deepEqual(noteDeath(started, 'exit code 1', 15_000), triesUnder(null, orderKey(record)));
});

test('an order to stop has ended well when nothing runs, also when nothing ran', () => {
  const stop = { ...record, order: { ...order, kind: 'stop' as const } };
  assert.deepEqual(told({ record: stop }), { state: 'stopped', because: 'stopped', end: 'ok' });
  assert.equal(told({ record: stop, change: { ending: 'stop' } })?.end, 'ok', 'also while the node ends');
  assert.equal(told({ change: { ending: 'stop' } })?.state, 'stopped');
  assert.equal(told({ state: 'running', change: { ending: 'stop' } }), null);
  assert.equal(told({ record: stop, state: 'running' }), null);
  assert.equal(told({ record: stop, state: 'off' }), null);
});

test('missing disks end any order as broken; a guest that is held, foreign or under an old epoch is not spoken of', () => {
  assert.equal(told({ change: { copy: null } })?.end, 'broken');
  assert.equal(told({ record: { ...record, order: { ...order, kind: 'hold' } }, state: 'running' }), null);
  assert.equal(told({ record: { ...record, home: 'n2' } }), null);
  assert.equal(told({ state: 'running', change: { epoch: null } }), null);
});

test('a move that fails while its guest runs says so without calling the guest failed', () => {
  const move: GuestRecord = { ...record, order: { ...order, kind: 'move', to: 'n2' } };
  const tries = noteFailed(noteFailed(triesUnder(null, orderKey(move)), 'n2 does not answer', 0), 'n2 does not answer', 0);
  assert.deepEqual(told({ record: move, tries, state: 'running' }), {
    state: 'running',
    because: 'try 2 of 2 failed: n2 does not answer',
    end: 'failed',
  });
  assert.equal(told({ record: move, tries, state: 'off' })?.state, 'failed');
});

test('a move that a node gives up while it ends has failed, whatever is wanted of the guest', () => {
  const move: GuestRecord = { ...record, order: { ...order, kind: 'move', to: 'n2' } };
  const once = noteFailed(triesUnder(null, orderKey(move)), 'n2 does not answer', 0);
  const twice = noteFailed(once, 'n2 does not answer', 0);
  for (const want of ['started', 'stopped'] as const) {
    for (const ending of ['stop', 'give-up'] as const) {
      const change = { want, ending };
      assert.deepEqual(told({ record: move, tries: twice, change: { ...change, hasFailed: true } }), {
        state: 'stopped',
        because: 'this node ends, and no other holds its last state: try 2 of 2 failed: n2 does not answer',
        end: 'failed',
      });
      assert.equal(told({ record: move, tries: once, nowBootMs: 1_000, change })?.end, null, 'it is tried again');
      assert.equal(told({ record: move, tries: twice, state: 'halted', change }), null, 'its QEMU has not ended');
    }
  }
});

test('what was told of an order stays told until it ends differently; another order, epoch or generation begins anew', () => {
  const started = { qemuStartedAtMs: 11, promoted: null, startTookMs: 7 };
  const first = { ...nextStatus('n1', record, null, { state: 'running', because: 'runs', end: 'ok', started }), atMs: 1 };
  assert.deepEqual(first.end, { orderId: 5, result: 'ok' });
  assert.equal(toldEnd('n1', record, first), 'ok');
  const again: HaStatus = { ...nextStatus('n1', record, first, { state: 'starting', because: '', end: null }), atMs: 2 };
  assert.deepEqual(again.end, { orderId: 5, result: 'ok' });
  assert.deepEqual([again.qemuStartedAtMs, again.startTookMs], [null, undefined]);
  const failed = nextStatus('n1', record, first, { state: 'failed', because: '', end: 'failed' });
  assert.deepEqual(failed.end, { orderId: 5, result: 'failed' });
  const still = nextStatus('n1', record, first, { state: 'running', because: 'runs', end: null });
  assert.deepEqual([still.qemuStartedAtMs, still.startTookMs], [11, 7]);
  for (const next of [
    { ...record, order: { ...order, id: 6 } },
    { ...record, order: { ...order, nodeEpoch: 8 } },
    { ...record, generation: 3 },
    { ...record, order: null },
  ]) {
    assert.equal(toldEnd('n1', next, first), null);
    assert.equal('end' in nextStatus('n1', next, first, { state: 'waiting', because: '', end: null }), false);
  }
  assert.equal(toldEnd('n2', record, first), null);
});

test('where a home began is what it tells of its present generation, while it runs', () => {
  const point = { generation: 1, seq: 4 };
  const started = { qemuStartedAtMs: 11, promoted: { point, pointAtMs: 3 } };
  const status = { ...nextStatus('n1', record, null, { state: 'running', because: 'runs', end: null, started }), atMs: 1 };
  assert.deepEqual(toldBegin(record, status), point);
  assert.equal(toldBegin({ ...record, home: 'n2' }, status), null);
  // The agent died before it could tell of the start; the next one finds the guest running.
  const found = { state: 'running', because: 'runs', end: 'ok', promoted: started.promoted } as const;
  assert.deepEqual(toldBegin(record, { ...nextStatus('n1', record, null, found), atMs: 1 }), point);
  assert.equal(toldBegin({ ...record, generation: 9 }, status), null);
  assert.equal(toldBegin(record, null), null);
});
