import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type GuestAction, type GuestPlanFacts, planGuestAction } from '#core/guest/guest-plan.ts';
import type { GuestOrder, GuestRecord } from '#core/guest/guest-record.ts';
import type { GuestProcess, ProcessState } from '#core/guest/process-state.ts';

const order: GuestOrder = {
  id: 1,
  kind: 'run',
  nodeEpoch: 7,
  managerEpoch: 1,
  promote: null,
  lostAtMs: null,
  issuedAtMs: 0,
};
const record: GuestRecord = {
  vmid: 100,
  name: 'db',
  config: { cores: 1, memoryMb: 512, disks: [], nics: [], boot: null },
  home: 'n1',
  generation: 2,
  order,
};
const primary = { role: 'primary', generation: 2, handedOver: null, promotedFrom: null } as const;
const facts = (change: Partial<GuestPlanFacts> = {}): GuestPlanFacts => ({
  self: 'n1',
  epoch: 7,
  record,
  want: 'started',
  process: null,
  copy: primary,
  began: null,
  ended: null,
  preCopied: false,
  retry: { kind: 'now' },
  ending: null,
  ...change,
});
const plan = (change: Partial<GuestPlanFacts>) => planGuestAction(facts(change));
const kind = (change: Partial<GuestPlanFacts>) => plan(change).kind;
const inState = (state: ProcessState): GuestProcess => ({ generation: 2, nodeEpoch: 7, state });
const ordered = (change: Partial<GuestOrder>): GuestRecord => ({ ...record, order: { ...order, ...change } });
const later = { kind: 'later', because: 'try 1 of 2 failed' } as const;
const gaveUp = { kind: 'gave-up', because: 'try 2 of 2 failed' } as const;

/** What is planned in each state of the process; `none`: there is no process. */
function table(change: Partial<GuestPlanFacts>): Record<ProcessState | 'none', GuestAction['kind']> {
  const states = ['unknown', 'prelaunch', 'running', 'halting', 'halted', 'off'] as const;
  const kinds = states.map((state) => [state, kind({ ...change, process: inState(state) })]);
  return Object.fromEntries([['none', kind({ ...change, process: null })], ...kinds]) as Record<
    ProcessState | 'none',
    GuestAction['kind']
  >;
}

test('ordered to run it is started, and whatever a hand-over left of it is taken back or ended', () => {
  assert.deepEqual(table({}), {
    none: 'start',
    unknown: 'none',
    prelaunch: 'end',
    running: 'none',
    halting: 'revive',
    halted: 'revive',
    off: 'end',
  });
});

test('ordered to stop, only a guest that may execute is asked to power down; the order says how long it may take', () => {
  const stopped = { none: 'none', unknown: 'shutdown', running: 'shutdown', halting: 'shutdown' };
  assert.deepEqual(table({ record: ordered({ kind: 'stop' }) }), { ...stopped, prelaunch: 'end', halted: 'end', off: 'end' });
  const timeoutOf = (timeoutMs?: number) =>
    plan({ record: ordered({ kind: 'stop', ...(timeoutMs === undefined ? {} : { timeoutMs }) }), process: inState('running') });
  assert.deepEqual(timeoutOf(0), { kind: 'shutdown', timeoutMs: 0, because: 'ordered to stop' });
  assert.deepEqual(timeoutOf(), { kind: 'shutdown', timeoutMs: 60_000, because: 'ordered to stop' });
});

test('a guest that is held is left as it is, whatever it does', () => {
  assert.deepEqual(new Set(Object.values(table({ record: ordered({ kind: 'hold' }) }))), new Set(['none']));
});

test('a move copies while the guest runs, then stops it with its disks open, then hands over', () => {
  const move = ordered({ kind: 'move', to: 'n2' });
  const moved = { none: 'open', unknown: 'none', prelaunch: 'hand-over', halted: 'hand-over', off: 'hand-over' };
  assert.deepEqual(table({ record: move }), { ...moved, running: 'pre-copy', halting: 'halt' });
  assert.deepEqual(table({ record: move, preCopied: true }), { ...moved, running: 'halt', halting: 'halt' });
});

test('once all was handed over only the record is missing; a copy elsewhere does not count', () => {
  const handedOver = { point: { generation: 2, seq: 9 }, copiedTo: ['n2'] };
  const copy = { ...primary, handedOver };
  assert.deepEqual(plan({ record: ordered({ kind: 'move', to: 'n2' }), copy }), {
    kind: 'give-up',
    handed: handedOver,
    because: 'ordered to move to n2',
  });
  assert.equal(kind({ record: ordered({ kind: 'move', to: 'n3' }), copy }), 'open');
  assert.equal(kind({ copy }), 'start');
});

test('a move that ended, waits or was given up does nothing more under its order', () => {
  const move = ordered({ kind: 'move', to: 'n2' });
  for (const change of [{ ended: 'failed' as const }, { retry: later }, { retry: gaveUp }]) {
    assert.deepEqual(new Set(Object.values(table({ record: move, ...change }))), new Set(['none']), JSON.stringify(change));
  }
});

test('a guest that is moved before it ever started here is promoted first', () => {
  const move = ordered({ kind: 'move', to: 'n3', promote: { generation: 1, seq: 4 } });
  assert.equal(kind({ record: move, copy: { role: 'replica', generation: 1, handedOver: null, promotedFrom: null } }), 'promote');
});

test('starts that failed often enough are not tried again under the order, nor before their time', () => {
  assert.equal(kind({ retry: later }), 'none');
  assert.equal(kind({ retry: gaveUp }), 'none');
  assert.equal(kind({ ended: 'failed' }), 'none');
  assert.equal(kind({ ended: 'ok' }), 'start');
  assert.equal(kind({ ended: 'broken' }), 'start', 'disks that are back are used');
});

test('an order of another epoch, or no permit, starts nothing', () => {
  assert.equal(kind({ epoch: 8 }), 'none');
  assert.equal(kind({ epoch: null }), 'none');
  assert.equal(kind({ epoch: 8, record: ordered({ kind: 'move', to: 'n2' }) }), 'none');
});

test('a recovery promotes first; without a promotion missing disks are refused by name', () => {
  const recovery = ordered({ promote: { generation: 1, seq: 4 } });
  assert.equal(
    kind({ copy: { role: 'replica', generation: 1, handedOver: null, promotedFrom: null }, record: recovery }),
    'promote',
  );
  const refused = plan({ copy: null });
  assert.equal(refused.kind, 'refuse');
  assert.match(refused.because, /disks of guest 100, generation 2, are missing on n1/);
});

test('a process that should not be here is killed, whatever else holds', () => {
  const process = inState('running');
  assert.equal(kind({ record: { ...record, home: 'n2' }, process }), 'kill');
  assert.equal(kind({ process: { ...process, generation: 1 } }), 'kill');
  assert.equal(kind({ process: { ...process, nodeEpoch: 6 } }), 'kill');
  assert.equal(kind({ record: null, process }), 'kill');
  const point = { generation: 2, seq: 9 };
  const givenUp = { node: 'n1', orderId: 1, point, copiedTo: ['n2'], atMs: 0, because: '' };
  assert.equal(kind({ record: { ...record, order: null, givenUp }, process: inState('off') }), 'kill');
});

test('a primary copy left behind by a move is demoted, never while its guest runs', () => {
  const moved = { ...record, home: 'n2', generation: 3 };
  assert.equal(kind({ record: moved }), 'demote');
  assert.equal(kind({ record: moved, process: inState('running') }), 'kill');
  assert.equal(kind({ record: moved, copy: { role: 'replica', generation: 2, handedOver: null, promotedFrom: null } }), 'none');
});

describe('a former home that handed the guest over', () => {
  const point = { generation: 2, seq: 9 };
  const older = { generation: 2, seq: 8 };
  const copy = { ...primary, handedOver: { point, copiedTo: ['n2'] } };
  const after = (
    change: Partial<GuestRecord>,
    promote: GuestOrder['promote'] = point,
    began: GuestPlanFacts['began'] = point,
  ) => {
    const next = { ...ordered({ promote }), home: 'n2', generation: 3, ...change };
    const action = plan({ record: next, copy, began });
    return action.kind === 'demote' ? action.identicalTo : action.kind;
  };

  test('needs no tail only when its successor has begun from that very point', () => {
    assert.deepEqual(after({}), point);
    assert.equal(after({}, older, older), null);
    assert.equal(after({ generation: 4 }), null, 'another home lay between: it may have begun from something older');
  });

  test('keeps its disks as they are until then: they may turn out to be the only ones', () => {
    assert.equal(after({}, point, null), 'none');
    assert.equal(after({ order: null }, point, null), 'none', 'its successor has declined');
    assert.equal(after({ generation: 4 }, point, null), null);
  });

  test('lets the guest come back that never began elsewhere: its node could send nothing to a primary copy', () => {
    const order = (to: string): GuestOrder => ({ ...ordered({ kind: 'move', to, promote: point }).order! });
    assert.equal(after({ order: order('n1') }, point, null), null);
    assert.equal(after({ order: order('n3') }, point, null), 'none');
  });

  test('that gets it back from this point, under whatever generation, goes on with what it has; from another point it keeps a tail', () => {
    assert.equal(after({ home: 'n1' }, point, null), 'promote');
    assert.equal(after({ home: 'n1', generation: 5 }, point, null), 'promote');
    assert.equal(after({ home: 'n1' }, older, null), null);
  });
});

test('a guest that is no longer wanted started is not started again, even while its old order stands', () => {
  for (const want of ['stopped', 'disabled'] as const) assert.equal(kind({ want }), 'none', want);
});

test('a node that ends and keeps its guests stops them all, with or without a permit, and starts none', () => {
  const stops = { none: 'none', unknown: 'shutdown', running: 'shutdown', halting: 'shutdown' };
  const expected = { ...stops, prelaunch: 'end', halted: 'end', off: 'end' };
  assert.deepEqual(table({ ending: 'stop' }), expected);
  assert.deepEqual(table({ ending: 'stop', epoch: null }), expected);
  assert.deepEqual(table({ ending: 'stop', record: ordered({ kind: 'hold' }) }), expected);
  assert.deepEqual(table({ ending: 'stop', want: 'ignored' }), expected);
});

test('a node that gives its guests up hands over what is to run; when nobody takes it, it is only stopped', () => {
  const handed = { none: 'open', unknown: 'none', running: 'halt', halting: 'halt' };
  const still = { prelaunch: 'hand-over', halted: 'hand-over', off: 'hand-over' };
  assert.deepEqual(table({ ending: 'give-up' }), { ...handed, ...still });
  const action = plan({ ending: 'give-up', process: inState('off') });
  assert.equal(action.kind === 'hand-over' && action.to, null);
  const stops = { none: 'none', unknown: 'shutdown', running: 'shutdown', halting: 'shutdown' };
  const stopped = { ...stops, prelaunch: 'end', halted: 'end', off: 'end' };
  assert.deepEqual(table({ ending: 'give-up', retry: gaveUp }), stopped);
  assert.deepEqual(table({ ending: 'give-up', want: 'stopped' }), stopped);
  assert.deepEqual(table({ ending: 'give-up', record: ordered({ kind: 'stop' }) }), stopped);
});

test('a move under way goes on while its node ends; one that failed is given up to all', () => {
  const move = ordered({ kind: 'move', to: 'n2' });
  const toOf = (change: Partial<GuestPlanFacts>) => {
    const action = plan({ record: move, process: inState('off'), ...change });
    return action.kind === 'hand-over' ? action.to : action.kind;
  };
  assert.equal(toOf({ ending: 'stop' }), 'n2');
  assert.equal(toOf({ ending: 'give-up' }), 'n2');
  assert.equal(toOf({ ending: 'give-up', ended: 'failed' }), null);
  assert.equal(toOf({ ending: 'stop', ended: 'failed' }), 'end');
});
