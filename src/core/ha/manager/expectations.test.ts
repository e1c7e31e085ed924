import assert from 'node:assert/strict';
import { test } from 'node:test';
import { expectNext, listOverdue, type StateDeadlines } from '#core/ha/manager/expectations.ts';
import { emptyMemory, type GuestEntry, type GuestState } from '#core/ha/manager/memory.ts';

const deadlines: StateDeadlines = {
  roundMs: 1_000,
  startMs: 30_000,
  stopMs: 60_000,
  moveMs: 600_000,
  claimMs: 20_000,
  placeMs: 5_000,
  returnMs: 900_000,
};

function entryIn(state: GuestState, sinceMs = 0): GuestEntry {
  return { state, node: 'a', orderId: 1, failedNodes: [], returnTo: null, command: null, sinceMs, because: 'told' };
}

test('every state that is not a rest has a deadline and someone to act', () => {
  const states: GuestState[] = [
    { kind: 'start-requested' },
    { kind: 'start-requested-elsewhere', to: 'b' },
    { kind: 'active', seenRunning: false, recovered: false },
    { kind: 'stop-requested', timeoutMs: null },
    { kind: 'moving-live', to: 'b' },
    { kind: 'moving-cold', to: 'b' },
    { kind: 'awaiting-fence' },
    { kind: 'awaiting-recovery' },
    { kind: 'frozen' },
    { kind: 'failed' },
  ];
  for (const state of states) assert.notEqual(expectNext(entryIn(state), deadlines).deadlineMs, null, state.kind);
  assert.equal(expectNext(entryIn({ kind: 'inactive' }), deadlines).deadlineMs, null);
  assert.equal(expectNext(entryIn({ kind: 'active', seenRunning: true, recovered: false }), deadlines).deadlineMs, null);
});

test('a state that outlasts its deadline is told with its reason, the longest first', () => {
  const guests = new Map([
    ['1', entryIn({ kind: 'awaiting-fence' }, 0)],
    ['2', entryIn({ kind: 'awaiting-recovery' }, 0)],
    ['3', entryIn({ kind: 'stop-requested', timeoutMs: 0 }, 29_000)],
    ['4', entryIn({ kind: 'active', seenRunning: false, recovered: false }, 29_000)],
  ]);
  const overdue = listOverdue({ ...emptyMemory(), guests }, deadlines, 30_000);
  assert.deepEqual(
    overdue.map(({ guest, lateMs }) => [guest, lateMs]),
    [
      ['2', 25_000],
      ['1', 10_000],
      ['3', 1_000],
    ],
  );
  assert.match(overdue[1]?.because ?? '', /awaiting-fence since 30000 ms \(told\); next: manager: claims a/);
});
