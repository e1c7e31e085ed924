import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { replaceFile } from '#adapters/dir/durable-file.ts';
import type { PoolLook } from '#adapters/zfs/pools.ts';
import { formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import { forecastUse, judgePool, planScrub, type UseSample } from '#core/storage/zfs/pool-health.ts';
import {
  describeMissingPool,
  findPoolNotes,
  listPoolChanges,
  saysTheSame,
  type PoolRecord,
} from '#core/storage/zfs/pool-record.ts';
import type { Clock } from '#ports/clock.ts';
import type { Store } from '#ports/store.ts';
import { createBell } from '#programs/agent/bell.ts';
import { writeOwnedRecord, type World } from '#programs/agent/world.ts';

export type PoolWatchParts = {
  self: string;
  pool: string;
  /** The node's data folder: what is remembered of the pool over restarts lies there. */
  data: string;
  store: Store;
  world: Pick<World, 'list'>;
  clock: Pick<Clock, 'wallMs'>;
  readPool: (pool: string) => Promise<PoolLook>;
  startScrub: (pool: string) => Promise<void>;
  /** Rings at every event of a disk or a scan, until `signal` aborts. */
  followEvents: (ring: () => void, signal: AbortSignal) => Promise<void>;
  /** Between two looks, however many events there are. */
  restMs: number;
  log: { info(fields: object, text: string): void; warn(fields: object, text: string): void };
};

/** What must outlive the agent: growth is told over a month, and when every block was last looked at. */
type PoolMemory = { firstSeenAtMs: number; scrubEndedAtMs: number | null; samples: UseSample[] };

const fileName = 'pool-watch.json';

/**
 * Looks at the pool of this node's guests every `poolLookMs` and after each event, tells the cluster what is wrong with it (the record changes only
 * when there is something new), and has every block read once a month, one node at a time. Returns when `signal` aborts.
 */
export async function watchPool(parts: PoolWatchParts, signal: AbortSignal): Promise<void> {
  const { log } = parts;
  const bell = createBell();
  const following = parts.followEvents(() => bell.ring(), signal);
  const file = join(parts.data, fileName);
  let memory = await readMemory(file, parts.clock.wallMs());
  let told: PoolRecord | null = null;
  while (!signal.aborted) {
    try {
      const look = await lookAt(parts, memory);
      if (look.memory !== memory) await replaceFile(file, JSON.stringify(look.memory));
      memory = look.memory;
      for (const text of listPoolChanges(told, look.record)) {
        log[look.record.health.level === 'fine' ? 'info' : 'warn'](
          { event: 'pool.changed', pool: parts.pool, level: look.record.health.level },
          text,
        );
      }
      if (told === null || !saysTheSame(told, look.record))
        await writeOwnedRecord(parts.store, keys.nodePool(parts.self), look.record);
      told = look.record;
      if (look.scrubs) {
        await parts.startScrub(parts.pool);
        log.info({ event: 'pool.scrub-begun', pool: parts.pool }, 'every block is read and compared with its checksum');
      }
    } catch (error) {
      log.warn({ event: 'pool.not-watched', pool: parts.pool, err: error }, `${formatErrorChain(error)}; tried again`);
    }
    await delay(parts.restMs, undefined, { signal }).catch(() => {});
    await bell.next(limits.poolLookMs, signal);
  }
  await following;
}

async function lookAt(
  { self, pool, world, clock, readPool }: PoolWatchParts,
  before: PoolMemory,
): Promise<{ record: PoolRecord; memory: PoolMemory; scrubs: boolean }> {
  const now = clock.wallMs();
  let look: PoolLook;
  try {
    look = await readPool(pool);
  } catch (error) {
    if (!isAppError(error, 'missing', 'unavailable', 'busy')) throw error;
    return { record: describeMissingPool(self, pool, formatErrorChain(error), now), memory: before, scrubs: false };
  }
  const { use, status } = look;
  const memory = remember(before, look, now);
  const forecast = forecastUse(memory.samples, use.sizeBytes);
  const isScrubbing = status.scan?.state === 'running' && status.scan.kind === 'scrub';
  const { sizeBytes, allocatedBytes, usedPercent } = use;
  const record: PoolRecord = {
    node: self,
    pool,
    use: { sizeBytes, allocatedBytes, usedPercent },
    health: judgePool(status, use, forecast),
    notes: findPoolNotes(status, look),
    forecast,
    isScrubbing,
    atMs: now,
  };
  const facts = {
    lastEndedAtMs: memory.scrubEndedAtMs,
    firstSeenAtMs: memory.firstSeenAtMs,
    isScanRunning: status.scan?.state === 'running',
    isOtherNodeScrubbing: listPools(world).some((other) => other.node !== self && other.isScrubbing),
    everyDays: limits.scrubEveryDays,
  };
  return { record, memory, scrubs: planScrub(facts, { atMs: now, hour: new Date(now).getHours() }) === 'start' };
}

/** The memory itself while there is nothing to add. */
function remember(before: PoolMemory, { use, status }: PoolLook, now: number): PoolMemory {
  const { scan } = status;
  const endedAtMs =
    scan?.kind === 'scrub' && scan.state === 'finished' && scan.when !== null ? Date.parse(scan.when) : Number.NaN;
  const scrubEndedAtMs = Number.isNaN(endedAtMs) ? before.scrubEndedAtMs : endedAtMs;
  const isDue = now - (before.samples.at(-1)?.atMs ?? 0) >= limits.poolSampleMs;
  if (!isDue && scrubEndedAtMs === before.scrubEndedAtMs) return before;
  const sample = { atMs: now, allocatedBytes: use.allocatedBytes };
  const samples = isDue ? [...before.samples, sample].slice(-limits.poolSamplesKept) : before.samples;
  return { ...before, scrubEndedAtMs, samples };
}

/** What every node said of its pool last. */
function listPools(world: Pick<World, 'list'>): PoolRecord[] {
  return world
    .list<PoolRecord>(prefixes.nodes)
    .filter((entry) => entry.key.endsWith('/pool'))
    .map((entry) => entry.value);
}

/** What cannot be read is begun anew: it is for forecasts, and a scrub too many does no harm. */
async function readMemory(file: string, now: number): Promise<PoolMemory> {
  const text = await readFile(file, 'utf8').catch(() => null);
  try {
    const found = JSON.parse(text ?? 'null') as Partial<PoolMemory> | null;
    if (found !== null && typeof found.firstSeenAtMs === 'number' && Array.isArray(found.samples)) {
      return { firstSeenAtMs: found.firstSeenAtMs, scrubEndedAtMs: found.scrubEndedAtMs ?? null, samples: found.samples };
    }
  } catch {
    // begun anew
  }
  return { firstSeenAtMs: now, scrubEndedAtMs: null, samples: [] };
}
