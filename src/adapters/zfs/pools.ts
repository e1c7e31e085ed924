import { execFile } from 'node:child_process';
import { readdir, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import {
  clearErrors,
  createFolder,
  createPool,
  followEvents,
  importPool,
  listImportable,
  listPools,
  listVolumeBlocks,
  readAshift,
  readPoolStatus,
  replaceDisk,
  startScrub,
  stopScrub,
} from '#core/storage/zfs/commands.ts';
import { describeDisk, lsblkColumns, parseBlockDevices } from '#core/storage/zfs/disk-facts.ts';
import type { DiskFacts, PoolFacts, PoolPlan } from '#core/storage/zfs/pool-plan.ts';
import {
  parseEventLine,
  parseImportable,
  parsePoolList,
  parsePoolStatus,
  type ImportablePool,
  type PoolStatus,
  type PoolUse,
} from '#core/storage/zfs/pool-status.ts';
import { openSend, runZfs } from './zfs-command.ts';

/** What is known of a pool that is imported. `sectorBytes` null: ZFS chose it by itself. `volumeBlocks`: block of a volume to how many have it. */
export type PoolLook = { use: PoolUse; status: PoolStatus; sectorBytes: number | null; volumeBlocks: Map<number, number> };

const byIdFolder = '/dev/disk/by-id';

/** What this machine says of the disks that a person named. */
export async function readDisks(asked: readonly string[]): Promise<DiskFacts[]> {
  const devices = parseBlockDevices(await runLsblk());
  const byId = new Map<string, string>();
  for (const name of await readdir(byIdFolder).catch(() => [])) {
    const path = join(byIdFolder, name);
    const leadsTo = await realpath(path).catch(() => null);
    if (leadsTo !== null) byId.set(path, leadsTo);
  }
  return await Promise.all(
    asked.map(async (name) => {
      // A bare name is taken for one of those that last.
      const path = name.includes('/') ? name : join(byIdFolder, name);
      return describeDisk(path, await realpath(path).catch(() => null), devices, byId);
    }),
  );
}

/** Pools that are imported, and those that could be; `trouble` when OpenZFS does not work here. */
export async function readPoolFacts(): Promise<PoolFacts & { offers: ImportablePool[] }> {
  try {
    const pools = parsePoolList(await runZfs(listPools())).map((pool) => pool.name);
    const offers = await listOffers();
    return { trouble: null, pools, importable: offers.map((offer) => offer.name), offers };
  } catch (error) {
    if (!isAppError(error)) throw error;
    return { trouble: formatErrorChain(error), pools: [], importable: [], offers: [] };
  }
}

async function listOffers(): Promise<ImportablePool[]> {
  try {
    return parseImportable(await runZfs(listImportable()));
  } catch (error) {
    if (isAppError(error, 'missing')) return []; // nothing is offered
    throw error;
  }
}

/** A pool's state, or of all that are imported. Raises AppError missing when it is not. */
export async function readPools(only: string | null): Promise<PoolLook[]> {
  const uses = parsePoolList(await runZfs(listPools())).filter((use) => only === null || use.name === only);
  if (only !== null && uses.length === 0) {
    throw new AppError('missing', `look at pool ${only}: it is not imported. What could be: holdfast pool import`);
  }
  const looks: PoolLook[] = [];
  for (const use of uses) {
    const status = parsePoolStatus(await runZfs(readPoolStatus(use.name)));
    const ashift = Number((await runZfs(readAshift(use.name))).trim());
    const volumeBlocks = new Map<number, number>();
    for (const line of (await runZfs(listVolumeBlocks(use.name))).split('\n')) {
      const block = Number(line.split('\t')[1] ?? 0);
      if (block > 0) volumeBlocks.set(block, (volumeBlocks.get(block) ?? 0) + 1);
    }
    looks.push({ use, status, sectorBytes: ashift > 0 ? 2 ** ashift : null, volumeBlocks });
  }
  return looks;
}

/** Makes the pool of a plan and, in it, the dataset that guests' disks go into. */
export async function makePool(plan: PoolPlan, dataset: string): Promise<void> {
  await runZfs(createPool(plan.pool, plan.disks));
  await runZfs(createFolder(dataset, { parents: true, isUnfinished: false }));
}

/** Raises AppError conflict when another machine used the pool last and nobody said that it is not running. */
export async function takeInPool(pool: string, options: { takeOver: boolean }): Promise<void> {
  await runZfs(importPool(pool, options));
}

/** Puts a disk in another's place; what was on that one is filled in from the others (resilver). */
export async function exchangeDisk(pool: string, old: string, next: string): Promise<void> {
  await runZfs(replaceDisk(pool, old, next));
}

export async function scrubPool(pool: string, what: 'start' | 'stop'): Promise<void> {
  await runZfs(what === 'start' ? startScrub(pool) : stopScrub(pool));
}

export async function clearPoolErrors(pool: string): Promise<void> {
  await runZfs(clearErrors(pool));
}

/** A disk, a pool or a scan changed; what commands do to datasets is no news. */
const newsPattern = /^(ereport|resource)\.|^sysevent\.fs\.zfs\.(vdev_|pool_|scrub_|resilver_)/;

/** Rings at every event of a disk, a pool or a scan, until `signal` aborts. */
export async function followPoolEvents(ring: () => void, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const events = openSend(followEvents());
    const kill = (): void => events.kill();
    signal.addEventListener('abort', kill, { once: true });
    createInterface({ input: events.pipe }).on('line', (line) => {
      if (newsPattern.test(parseEventLine(line) ?? '')) ring();
    });
    await events.done.catch(() => {}); // without OpenZFS there are none; whoever reads the pool says why
    signal.removeEventListener('abort', kill);
    await delay(limits.poolLookMs, undefined, { signal }).catch(() => {});
  }
}

function runLsblk(): Promise<string> {
  const args = ['--json', '--bytes', '--output', lsblkColumns];
  return new Promise((resolve, reject) => {
    execFile('lsblk', args, { timeout: limits.lsblkMs, killSignal: 'SIGKILL', maxBuffer: 16 << 20 }, (cause, stdout) => {
      if (cause === null) return resolve(stdout);
      return reject(new AppError('unavailable', "read this machine's disks: lsblk failed", { cause }));
    });
  });
}
