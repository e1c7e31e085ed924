import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import type { PoolLook } from '#adapters/zfs/pools.ts';
import { AppError } from '#base/error.ts';
import { keys } from '#core/ha/keys.ts';
import type { PoolRecord } from '#core/storage/zfs/pool-record.ts';
import { watchPool } from '#programs/agent/pool-watch.ts';
import { createMemoryStore } from '../../../test/fakes/memory-store.ts';
import { until } from '../../../test/contract/checker/until.ts';

const dayMs = 86_400_000;
const device = (name: string, depth: number, state: string) => ({
  name,
  depth,
  state,
  readErrors: 0,
  writeErrors: 0,
  checksumErrors: 0,
  note: null,
});
const look = (second: string): PoolLook => ({
  use: { name: 'tank', sizeBytes: 1_000, allocatedBytes: 100, usedPercent: 10, health: 'ONLINE', guid: '1' },
  status: {
    name: 'tank',
    state: second === 'ONLINE' ? 'ONLINE' : 'DEGRADED',
    status: null,
    action: null,
    scan: null,
    devices: [
      device('tank', 0, 'ONLINE'),
      device('raidz1-0', 1, 'ONLINE'),
      device('/dev/a', 2, 'ONLINE'),
      device('/dev/b', 2, second),
    ],
    lostData: null,
  },
  sectorBytes: 4_096,
  volumeBlocks: new Map(),
});

/** A watch over a pool of which `read` tells; its clock stands at noon. */
async function startWatch(t: TestContext, read: () => PoolLook, nowMs: () => number) {
  const data = await mkdtemp(join(tmpdir(), 'hf-pool-'));
  const store = createMemoryStore().connect();
  const stop = new AbortController();
  const told: string[] = [];
  const scrubbed: string[] = [];
  let ring = (): void => {};
  const log = (_fields: object, text: string): void => void told.push(text);
  const watch = watchPool(
    {
      self: 'n1',
      pool: 'tank',
      data,
      store,
      world: { list: () => [] },
      clock: { wallMs: nowMs },
      readPool: async () => read(),
      startScrub: async (pool) => void scrubbed.push(pool),
      followEvents: async (heard) => void (ring = heard),
      restMs: 1,
      log: { info: log, warn: log },
    },
    stop.signal,
  );
  t.after(async () => {
    stop.abort();
    await watch;
    await rm(data, { recursive: true });
  });
  const record = async (): Promise<PoolRecord | null> => {
    const entry = await store.read(keys.nodePool('n1'));
    return entry === null ? null : (JSON.parse(entry.value) as PoolRecord);
  };
  return { data, told, scrubbed, record, ring: () => ring() };
}

test('a pool’s trouble is told to the cluster at its event, once, and its end as well', async (t) => {
  let second = 'ONLINE';
  const watch = await startWatch(
    t,
    () => look(second),
    () => 12 * 3_600_000,
  );
  const first = await until('the pool is told', 5_000, watch.record);
  assert.equal(first.health.level, 'fine');
  second = 'REMOVED';
  watch.ring();
  const worn = await until('the lost disk is told', 5_000, async () =>
    (await watch.record())?.health.level === 'worn' ? watch.record() : null,
  );
  assert.match(worn?.health.problems[0]?.what ?? '', /disk \/dev\/b is REMOVED/);
  second = 'ONLINE';
  watch.ring();
  await until('it is well again', 5_000, () => watch.told.includes('tank is well again'));
  assert.equal(watch.told.length, 2);
  assert.equal(JSON.parse(await readFile(join(watch.data, 'pool-watch.json'), 'utf8')).samples.length, 1);
});

test('a pool that is not imported is told with what to do', async (t) => {
  const gone = (): never => {
    throw new AppError('missing', 'look at pool tank: it is not imported');
  };
  const watch = await startWatch(t, gone, () => 0);
  const record = await until('it is told', 5_000, watch.record);
  assert.deepEqual([record.health.level, record.use], ['lost', null]);
});

test('a pool that nobody has looked through for a month is scrubbed', async (t) => {
  let now = 0;
  const watch = await startWatch(
    t,
    () => look('ONLINE'),
    () => now,
  );
  await until('the pool is told', 5_000, watch.record);
  assert.deepEqual(watch.scrubbed, []);
  now = 45 * dayMs;
  watch.ring();
  await until('the scrub begins', 5_000, () => watch.scrubbed.length > 0);
});
