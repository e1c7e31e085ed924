import assert from 'node:assert/strict';
import { test } from 'node:test';
import { keys } from '#core/ha/keys.ts';
import type { RequestRecord } from '#core/ha/requests.ts';
import type { GuestCopy, GuestStorage } from '#ports/guest-storage.ts';
import type { CommitOutcome, Store } from '#ports/store.ts';
import { createBell } from '#programs/agent/bell.ts';
import type { GuestLoop } from '#programs/agent/guest-loop.ts';
import type { NodeEnd } from '#programs/agent/node-end.ts';
import { runRequests } from '#programs/agent/requests.ts';

const config = { cores: 1, memoryMb: 64, disks: [{ name: 'disk0', sizeBytes: 1 << 20 }], nics: [], boot: null };
const primary: GuestCopy = {
  vmid: 100,
  role: 'primary',
  generation: 1,
  point: null,
  pointAtMs: null,
  leftBehind: [],
  handedOver: null,
};

/** Runs one create request over a store whose commits of the guest end as told; returns its end and what was done to the disks. */
async function create(options: { state: 'waiting' | 'running'; copies: GuestCopy[]; guestCommit: CommitOutcome['kind'] }) {
  const head = {
    id: '1',
    node: 'n1',
    createdAtMs: 0,
    kind: 'guest-create',
    vmid: 100,
    name: 'a',
    config,
    imports: {},
    want: 'started',
  };
  const state =
    options.state === 'running'
      ? { state: 'running', progress: { text: '', doneBytes: null, totalBytes: null } }
      : { state: 'waiting' };
  const values = new Map([[keys.request('1'), JSON.stringify({ ...head, ...state })]]);
  const done: string[] = [];
  const stop = new AbortController();
  const read = (key: string) => (values.has(key) ? { key, value: values.get(key) ?? '', modRevision: 1n } : null);
  const store = {
    read: async (key: string) => read(key),
    commit: async (_compares: unknown, writes: { key: string; value: string | null }[]): Promise<CommitOutcome> => {
      const isGuest = writes.some((write) => write.key === keys.guest(100));
      if (isGuest && options.guestCommit === 'maybe') return { kind: 'maybe', cause: 'lost' };
      if (isGuest && options.guestCommit === 'conflict') return { kind: 'conflict' };
      for (const write of writes) if (write.value !== null) values.set(write.key, write.value);
      const end = JSON.parse(values.get(keys.request('1')) ?? '{}') as RequestRecord;
      if (end.state === 'done' || end.state === 'failed') stop.abort();
      return { kind: 'committed', revision: 1n };
    },
  } as unknown as Store;
  const storage = {
    listCopies: async () => options.copies,
    create: async () => void done.push('create'),
    remove: async () => void done.push('remove'),
  } as unknown as GuestStorage;
  const request = JSON.parse(values.get(keys.request('1')) ?? '{}') as RequestRecord;
  const world = { list: () => [{ key: keys.request('1'), value: request, modRevision: 1n }] } as never;
  const guests = {
    exclusively: (_vmid: number, work: () => Promise<unknown>) => work(),
    running: () => [],
  } as unknown as GuestLoop;
  const log = { info() {}, warn() {} };
  const parts = {
    self: 'n1',
    bootId: 'b1',
    store,
    world,
    bell: createBell(),
    storage,
    guests,
    syncNow: async () => [],
    nodeEnd: {} as NodeEnd,
    backups: {} as never,
    restores: {} as never,
    live: {} as never,
    run: '/nonexistent',
    clock: { bootMs: () => 0, wallMs: () => 0 },
  };
  await runRequests({ ...parts, log }, stop.signal);
  const end = JSON.parse(values.get(keys.request('1')) ?? '{}') as RequestRecord;
  return { state: end.state, text: JSON.stringify(end), done };
}

test('disks of an older guest are never removed for a new one of its number', async () => {
  const seen = await create({ state: 'waiting', copies: [primary], guestCommit: 'committed' });
  assert.deepEqual([seen.state, seen.done], ['failed', []]);
  assert.match(seen.text, /holds a primary copy of an earlier guest 100; nothing was changed/);
});

test('a create that a crash cut after its disks takes them up and ends well', async () => {
  const seen = await create({ state: 'running', copies: [primary], guestCommit: 'committed' });
  assert.deepEqual([seen.state, seen.done], ['done', []]);
});

test('when the answer is lost the new disks stay: the record may still be applied', async () => {
  const seen = await create({ state: 'waiting', copies: [], guestCommit: 'maybe' });
  assert.deepEqual([seen.state, seen.done], ['failed', ['create']]);
});

test('when somebody else was first, only the disks just made go again', async () => {
  const seen = await create({ state: 'waiting', copies: [], guestCommit: 'conflict' });
  assert.deepEqual([seen.state, seen.done], ['failed', ['create', 'remove']]);
});
