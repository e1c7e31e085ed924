import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaStatus } from '#core/ha/records.ts';
import { createStatusDesk } from '#programs/agent/status-desk.ts';
import type { World } from '#programs/agent/world.ts';
import { createMemoryStore } from '../../../test/fakes/memory-store.ts';

const record: GuestRecord = {
  vmid: 100,
  name: 'db',
  config: { cores: 1, memoryMb: 512, disks: [], nics: [], boot: null },
  home: 'n1',
  generation: 2,
  order: { id: 5, kind: 'run', nodeEpoch: 7, managerEpoch: 1, promote: null, lostAtMs: null, issuedAtMs: 0 },
};
const runs = { state: 'running', because: 'runs', end: 'ok' } as const;

function makeDesk(self: string, store: ReturnType<typeof createMemoryStore>) {
  const world = { read: () => null } as unknown as World;
  let wallMs = 0;
  return createStatusDesk({ self, store, world, clock: { bootMs: () => 0, wallMs: () => (wallMs += 1) } });
}

async function readStatus(store: ReturnType<typeof createMemoryStore>): Promise<HaStatus | null> {
  const entry = await store.read(keys.haStatus(100));
  return entry === null ? null : (JSON.parse(entry.value) as HaStatus);
}

test('what has not changed is told once', async () => {
  const store = createMemoryStore();
  const desk = makeDesk('n1', store);
  await desk.tell(record, runs);
  const { revision } = store;
  await desk.tell(record, runs);
  assert.equal(store.revision, revision);
  await desk.tell(record, { ...runs, end: 'failed' });
  assert.equal((await readStatus(store))?.end?.result, 'failed');
});

test('a word that was held up does not cover what a later home has said', async () => {
  const store = createMemoryStore();
  await makeDesk('n2', store).tell({ ...record, home: 'n2', generation: 3 }, runs);
  const late = makeDesk('n1', store);
  await late.tell(record, { state: 'stopped', because: 'it is stopped for its hand-over', end: null });
  assert.deepEqual([(await readStatus(store))?.node, late.told(100)], ['n2', null]);
});

test('a lost answer is asked after; a store that takes nothing is an error', async () => {
  const store = createMemoryStore();
  const client = store.connect();
  const desk = makeDesk('n1', client as ReturnType<typeof createMemoryStore>);
  client.failCommits('maybe-applied');
  await desk.tell(record, runs);
  assert.equal((await readStatus(store))?.state, 'running');
  client.failCommits('maybe-lost', 'maybe-lost', 'maybe-lost', 'maybe-lost');
  await assert.rejects(desk.tell(record, { ...runs, end: 'failed' }), { kind: 'conflict' });
  assert.equal(desk.told(100)?.end?.result, 'ok');
});
