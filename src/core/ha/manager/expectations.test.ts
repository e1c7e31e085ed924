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
  startsAfterWaitMs: 120_000,
  returnMs: 900_000,
};

function entryIn(state: GuestState, sinceMs = 0): GuestEntry {
  return { state, node: 'a', orderId: 1, failedNodes: [], returnTo: null, command: null, sinceMs, because: 'told' };
}

test('every state that is not a rest has a deadline and someone to act', () => {
  const states: GuestState[] = [
    { kind: 'start-requested' },
    { kind: 'start-requested', waitsFor: ['2'] },
    { kind: 'start-requested-elsewhere', to: 'b' },
    { kind: 'active', seenRunning: false, recovered: false },
    { kind: 'stop-requested', timeoutMs: null },
    { kind: 'moving-live', to: 'b' },
    { kind: 'moving-cold', to: 'b' },
    { kind: 'awaiting-fence' },
    { kind: 'awaiting-recovery' },
    { kind: 'awaiting-recovery', waitsFor: ['2'] },
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
    overdue.map((entry) => [entry.kind === 'guest' && entry.guest, entry.lateMs]),
    [
      ['2', 25_000],
      ['1', 10_000],
      ['3', 1_000],
    ],
  );
  assert.match(overdue[1]?.because ?? '', /awaiting-fence since 30000 ms \(told\); next: manager: claims a/);
});

test('a wait for others is late only after the wait that the settings allow, and names them', () => {
  const guests = new Map([['1', entryIn({ kind: 'awaiting-recovery', waitsFor: ['2', '3'] }, 0)]]);
  const memory = { ...emptyMemory(), guests };
  assert.deepEqual(listOverdue(memory, deadlines, 120_999), []);
  const [late] = listOverdue(memory, deadlines, 121_000);
  assert.match(late?.because ?? '', /next: manager: places it once 2, 3 run, or after the wait/);
});

test('a quarantined node waits for an operator since its last claim; a node that was only claimed does not', () => {
  const flaps = new Map([
    ['b', { claimedAtMs: [1_000], quarantined: false }],
    ['c', { claimedAtMs: [0, 60_000, 120_000], quarantined: true }],
  ]);
  const because =
    'it is quarantined: claimed 3 times in 2 min; next: operator: finds out why it is lost so often, then releases it';
  assert.deepEqual(listOverdue({ ...emptyMemory(), flaps }, deadlines, 125_000), [
    { kind: 'node', node: 'c', state: 'quarantined', lateMs: 5_000, because },
  ]);
});
