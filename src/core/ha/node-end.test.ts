import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GuestOrder, GuestRecord } from '#core/guest/guest-record.ts';
import type { GuestState } from '#core/ha/manager/memory.ts';
import { type EndingGuest, endingOf, judgeEnd } from '#core/ha/node-end.ts';

const order: GuestOrder = { id: 5, kind: 'run', nodeEpoch: 7, managerEpoch: 1, promote: null, lostAtMs: null, issuedAtMs: 0 };
const record: GuestRecord = {
  vmid: 100,
  name: 'db',
  config: { cores: 1, memoryMb: 512, disks: [], nics: [], boot: null },
  home: 'n1',
  generation: 2,
  order,
};
const guest = (change: Partial<EndingGuest> = {}): EndingGuest => ({
  vmid: 100,
  record,
  runs: false,
  want: 'started',
  orderHolds: true,
  couldNotCopy: null,
  ...change,
});
const inState = (state: GuestState): GuestRecord => {
  const entry = { node: 'n1', orderId: 5, failedNodes: [], returnTo: null, command: null, sinceMs: 0, because: '' };
  return { ...record, ha: { ...entry, state } };
};
const active = inState({ kind: 'active', seenRunning: true, recovered: false });
const givenUp = { node: 'n1', orderId: null, point: { generation: 2, seq: 9 }, copiedTo: ['n2', 'n3'], atMs: 0, because: '' };

test('the mode says what becomes of the guests', () => {
  assert.deepEqual((['active', 'restart', 'shutdown', 'maintenance', 'disarm'] as const).map(endingOf), [
    null,
    'stop',
    'give-up',
    null,
    null,
  ]);
});

test('whatever the mode, a node does not end while a guest runs on it', () => {
  for (const mode of ['restart', 'shutdown', 'maintenance'] as const) {
    assert.equal(judgeEnd('n1', mode, [guest({ runs: true })]).waitsFor.length, 1, mode);
  }
});

test('a reboot waits for the stop, and for the manager to freeze the guest', () => {
  const asked = judgeEnd('n1', 'restart', [guest({ record: active })]);
  assert.deepEqual([asked.waitsFor, asked.asksManagerFor.length], [[], 1]);
  assert.match(asked.lines[0] ?? '', /no manager has frozen it: it may be started elsewhere/);
  const frozen = judgeEnd('n1', 'restart', [guest({ record: inState({ kind: 'frozen' }) })]);
  assert.deepEqual(frozen, { waitsFor: [], asksManagerFor: [], lines: ['guest 100 db is stopped and waits for this node'] });
});

test('a node that gives its guests up waits until each was, or could not be', () => {
  assert.deepEqual(judgeEnd('n1', 'shutdown', [guest()]).waitsFor, ['guest 100 db has not been given up']);
  const done = judgeEnd('n1', 'shutdown', [guest({ record: { ...record, order: null, givenUp } })]);
  assert.deepEqual(done, { waitsFor: [], asksManagerFor: [], lines: ['guest 100 db was given up; n2, n3 can start it'] });
  const [line] = judgeEnd('n1', 'shutdown', [guest({ couldNotCopy: 'n2 does not answer' })]).lines;
  assert.match(line ?? '', /NOT given up.*n2 does not answer.*only when this node is back/);
  const stopped = { ...record, order: { ...order, kind: 'stop' as const } };
  assert.deepEqual(judgeEnd('n1', 'shutdown', [guest({ record: stopped, want: 'stopped' })]).lines, [
    'guest 100 db is stopped and stays here',
  ]);
  assert.deepEqual(judgeEnd('n1', 'shutdown', [guest({ orderHolds: false })]).lines, ['guest 100 db is stopped and stays here']);
  assert.deepEqual(judgeEnd('n1', 'shutdown', [guest({ record: { ...record, home: 'n2' } })]).lines, [
    'guest 100 db has moved to n2',
  ]);
});

test('a guest that is not managed keeps no node from being drained', () => {
  const unmanaged = guest({ runs: true, want: 'ignored' });
  assert.deepEqual(judgeEnd('n1', 'maintenance', [unmanaged]).waitsFor, []);
  assert.equal(judgeEnd('n1', 'shutdown', [unmanaged]).waitsFor.length, 1);
});

test('a drained node waits for guests that are to run, not for those that rest', () => {
  assert.deepEqual(judgeEnd('n1', 'maintenance', [guest({ record: active })]).waitsFor, ['guest 100 db has not left']);
  const rests = [
    guest({ record: inState({ kind: 'inactive' }) }),
    guest({ record: null }),
    guest({ record: { ...active, home: 'n3' } }),
  ];
  assert.deepEqual(judgeEnd('n1', 'maintenance', rests), {
    waitsFor: [],
    asksManagerFor: [],
    lines: ['guest 100 db is stopped and stays here', 'guest 100 was deleted', 'guest 100 db has moved to n3'],
  });
});
