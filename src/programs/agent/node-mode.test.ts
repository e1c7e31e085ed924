import assert from 'node:assert/strict';
import { test } from 'node:test';
import { keys } from '#core/ha/keys.ts';
import type { AgentRecord } from '#core/ha/records.ts';
import { createNodeMode } from '#programs/agent/node-mode.ts';
import { createMemoryStore, type MemoryClient } from '../../../test/fakes/memory-store.ts';

const signal = new AbortController().signal;

function makeMode(store: MemoryClient, bootId: string) {
  return createNodeMode({ self: 'n1', bootId, store, clock: { bootMs: () => 0, wallMs: () => 7 }, onChange: () => {} });
}

async function readMode(store: MemoryClient): Promise<string> {
  const entry = await store.read(keys.nodeAgent('n1'));
  const record = entry === null ? null : (JSON.parse(entry.value) as AgentRecord);
  return `${record?.mode} ${record?.bootId}`;
}

test('what was said in this boot holds for the next agent; a new boot is active', async () => {
  const store = createMemoryStore();
  const first = makeMode(store, 'b1');
  assert.deepEqual([first.isLoaded(), first.ending()], [false, null]);
  await first.load(signal);
  assert.equal(await readMode(store), 'active b1');
  await first.set('restart', 'policy freeze');
  assert.equal(first.ending(), 'stop');

  const second = makeMode(store, 'b1');
  await second.load(signal);
  assert.deepEqual([second.isLoaded(), second.mode(), second.ending()], [true, 'restart', 'stop']);
  const rebooted = makeMode(store, 'b2');
  await rebooted.load(signal);
  assert.deepEqual([rebooted.mode(), rebooted.ending(), await readMode(store)], ['active', null, 'active b2']);
});

test('a mode that the store did not take is not held to', async () => {
  const store = createMemoryStore();
  const mode = makeMode(store, 'b1');
  await assert.rejects(mode.set('shutdown', 'too early'), { kind: 'busy' });
  await mode.load(signal);
  store.setReachable(false);
  await assert.rejects(mode.set('shutdown', 'policy failover'), { kind: 'unavailable' });
  assert.deepEqual([mode.mode(), mode.ending()], ['active', null]);
  store.setReachable(true);
  assert.equal(await readMode(store), 'active b1');
});

test('who comes before it is loaded waits for that, while the store may still answer', async () => {
  const store = createMemoryStore();
  const mode = makeMode(store, 'b1');
  const waits = mode.untilLoaded();
  await assert.rejects(mode.set('shutdown', 'too early'), { kind: 'busy' });
  await mode.load(signal);
  await waits;
  await mode.set('shutdown', 'policy failover');
  assert.equal(mode.ending(), 'give-up');

  let nowMs = 0;
  const clock = { bootMs: () => (nowMs += 6_000), wallMs: () => 7 };
  const late = createNodeMode({ self: 'n1', bootId: 'b1', store, clock, onChange: () => {} });
  await assert.rejects(late.untilLoaded(), { kind: 'busy' });
});

test('a mode that came to the record although nobody confirmed it is taken back', async () => {
  const store = createMemoryStore();
  const mode = makeMode(store, 'b1');
  await mode.load(signal);
  store.setReachable(false);
  await assert.rejects(mode.set('shutdown', 'policy failover'), { kind: 'unavailable' });
  store.setReachable(true);
  const late: AgentRecord = { mode: 'shutdown', bootId: 'b1', because: 'policy failover', atMs: 7 };
  await store.commit([], [{ key: keys.nodeAgent('n1'), value: JSON.stringify(late) }]);
  await mode.assure();
  assert.equal(await readMode(store), 'active b1');
  const { modRevision } = (await store.read(keys.nodeAgent('n1'))) ?? {};
  await mode.assure();
  assert.equal((await store.read(keys.nodeAgent('n1')))?.modRevision, modRevision, 'said once');
});

test('a node begins to end before its record says so, and stays only once its record says that', async () => {
  const store = createMemoryStore();
  const mode = makeMode(store, 'b1');
  await mode.load(signal);
  const ending = mode.set('shutdown', 'policy failover');
  assert.equal(mode.ending(), 'give-up');
  await ending;
  const staying = mode.set('active', 'it stays');
  assert.equal(mode.ending(), 'give-up');
  await staying;
  assert.equal(mode.ending(), null);
});

test('of two changes at the same moment that both fail, what held before stays', async () => {
  const store = createMemoryStore();
  const mode = makeMode(store, 'b1');
  await mode.load(signal);
  store.setReachable(false);
  const both = await Promise.allSettled([mode.set('restart', 'policy freeze'), mode.set('active', 'it stays')]);
  assert.deepEqual(
    both.map(({ status }) => status),
    ['rejected', 'rejected'],
  );
  assert.deepEqual([mode.mode(), mode.ending()], ['active', null]);
  store.setReachable(true);
  await Promise.all([mode.set('shutdown', 'policy failover'), mode.set('active', 'it stays')]);
  assert.deepEqual([mode.mode(), await readMode(store)], ['active', 'active b1']);
});
