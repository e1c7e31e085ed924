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

test('who deletes a guest ends, in the same commit, what had begun to make it', async () => {
  const head = { node: 'n1', createdAtMs: 0, vmid: 100 };
  const running = { state: 'running', progress: { text: '', doneBytes: null, totalBytes: null } };
  const asked = [
    { ...head, ...running, id: '1', kind: 'guest-create', name: 'a', config, imports: {}, want: 'stopped' },
    { ...head, id: '2', kind: 'guest-delete', state: 'waiting' },
  ];
  const record = { vmid: 100, name: 'a', config, home: 'n1', generation: 1, order: null };
  const values = new Map([[keys.guest(100), JSON.stringify(record)]]);
  for (const request of asked) values.set(keys.request(request.id), JSON.stringify(request));
  const stop = new AbortController();
  const commits: string[][] = [];
  const store = {
    read: async (key: string) => (values.has(key) ? { key, value: values.get(key) ?? '', modRevision: 1n } : null),
    commit: async (_compares: unknown, writes: { key: string; value: string | null }[]): Promise<CommitOutcome> => {
      commits.push(writes.flatMap(({ key, value }) => (value === null ? [key] : [])));
      for (const { key, value } of writes) if (value === null) values.delete(key);
      for (const { key, value } of writes) if (value !== null && values.has(key)) values.set(key, value);
      if (JSON.parse(values.get(keys.request('2')) ?? '{}').state === 'done') stop.abort();
      return { kind: 'committed', revision: 1n };
    },
  } as unknown as Store;
  const entries = asked.map((value) => ({ key: keys.request(value.id), value, modRevision: 1n }));
  // The agent that began it is gone, and this one has not taken it up again yet.
  let isFirst = true;
  const list = () => (isFirst ? ((isFirst = false), entries.slice(1)) : entries);
  await runRequests(
    {
      self: 'n1',
      bootId: 'b1',
      store,
      world: { list, read: () => ({}) } as never,
      bell: createBell(),
      storage: { remove: async () => {} } as unknown as GuestStorage,
      guests: { exclusively: (_vmid: number, work: () => Promise<unknown>) => work(), running: () => [] } as unknown as GuestLoop,
      syncNow: async () => [],
      nodeEnd: {} as NodeEnd,
      backups: {} as never,
      restores: {} as never,
      live: { end: async () => {} } as never,
      run: '/nonexistent',
      clock: { bootMs: () => 0, wallMs: () => 0 },
      log: { info() {}, warn() {} },
    },
    stop.signal,
  );
  const deletion = commits.find((gone) => gone.includes(keys.guest(100))) ?? [];
  assert.ok(deletion.includes(keys.request('1')), deletion.join());
  assert.ok(!deletion.includes(keys.request('2')));
});

/** Deletes guest 100 over a store that loses the answers of the first deletions; `carriesOut`: they take effect all the same. */
async function deleteUnsure(lost: number, carriesOut: boolean) {
  const record = { vmid: 100, name: 'a', config, home: 'n1', generation: 1, order: null };
  const request = { node: 'n1', createdAtMs: 0, vmid: 100, id: '2', kind: 'guest-delete', state: 'waiting' };
  const values = new Map([[keys.guest(100), JSON.stringify(record)]]);
  values.set(keys.request('2'), JSON.stringify(request));
  const stop = new AbortController();
  const [removed, held]: [string[], boolean[]] = [[], []];
  let left = lost;
  let isHeld = false;
  const store = {
    read: async (key: string) => (values.has(key) ? { key, value: values.get(key) ?? '', modRevision: 1n } : null),
    commit: async (_compares: unknown, writes: { key: string; value: string | null }[]): Promise<CommitOutcome> => {
      const isDeletion = writes.some(({ key, value }) => key === keys.guest(100) && value === null);
      if (isDeletion) held.push(isHeld);
      const isLost = isDeletion && left-- > 0;
      if (isLost && !carriesOut) return { kind: 'maybe', cause: 'lost' };
      for (const { key, value } of writes) {
        if (value === null) values.delete(key);
        else if (values.has(key)) values.set(key, value);
      }
      if (['done', 'failed'].includes(JSON.parse(values.get(keys.request('2')) ?? '{}').state)) stop.abort();
      return isLost ? { kind: 'maybe', cause: 'lost' } : { kind: 'committed', revision: 1n };
    },
  } as unknown as Store;
  const exclusively = async (_vmid: number, work: () => Promise<unknown>) => {
    isHeld = true;
    return await work().finally(() => (isHeld = false));
  };
  await runRequests(
    {
      self: 'n1',
      bootId: 'b1',
      store,
      world: { list: () => [{ key: keys.request('2'), value: request, modRevision: 1n }], read: () => ({}) } as never,
      bell: createBell(),
      storage: { remove: async (vmid: number) => void removed.push(String(vmid)) } as unknown as GuestStorage,
      guests: { exclusively, running: () => [] } as unknown as GuestLoop,
      syncNow: async () => [],
      nodeEnd: {} as NodeEnd,
      backups: {} as never,
      restores: {} as never,
      live: { end: async () => {} } as never,
      run: '/nonexistent',
      clock: { bootMs: () => 0, wallMs: () => 0 },
      log: { info() {}, warn() {} },
    },
    stop.signal,
  );
  return { state: (JSON.parse(values.get(keys.request('2')) ?? '{}') as RequestRecord).state, removed, held };
}

test('a deletion whose answer is lost is asked until it is known, and nothing may start the guest until then', async () => {
  assert.deepEqual(await deleteUnsure(2, false), { state: 'done', removed: ['100'], held: [true, true, true] });
  assert.deepEqual(await deleteUnsure(1, true), { state: 'done', removed: ['100'], held: [true] });
});
