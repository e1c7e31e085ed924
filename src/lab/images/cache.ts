import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { AppError } from '#base/error.ts';

/** Where built guests live between runs; `make clean` removes it. */
export const imageCacheRoot = '/var/cache/holdfast-lab';

/** Longest build of one image on a busy two-core machine, with slow package downloads; compiling OpenZFS was seen to take 15 minutes. */
const buildMs = 2_700_000;
const lockPollMs = 50;

export type Progress = (message: string) => void;

export type ImageRecipe = {
  /** Folder below the cache, e.g. `kernel`. */
  kind: string;
  /** Everything that decides what comes out: our sources, package names, settings. Hashed into the folder's name. */
  inputs: string[];
  /** Fills an empty folder. It becomes visible under its final name only when this returns. */
  build: (directory: string, progress: Progress) => Promise<void>;
};

export type CacheOptions = { cacheRoot?: string; progress?: Progress };

/** The first 16 hex digits of the hash of a recipe's inputs. */
export function contentKey(inputs: string[]): string {
  const hash = createHash('sha256');
  for (const input of inputs) hash.update(`${Buffer.byteLength(input)}:`).update(input);
  return hash.digest('hex').slice(0, 16);
}

/** A source file of ours as one input of a recipe. */
export function sourceText(path: string): string {
  return readFileSync(path, 'utf8');
}

/**
 * Returns the folder `<cache>/<kind>/<key>`, building it first when it is not there. Safe to call from several processes: one builds, the
 * others wait. A build that fails or is killed leaves nothing under the final name.
 */
export async function ensureCached(recipe: ImageRecipe, options: CacheOptions = {}): Promise<string> {
  const folder = join(options.cacheRoot ?? imageCacheRoot, recipe.kind);
  const target = join(folder, contentKey(recipe.inputs));
  if (existsSync(target)) return target;
  mkdirSync(folder, { recursive: true });
  await using _lock = await takeLock(`${target}.lock`);
  if (existsSync(target)) return target;
  // Whoever held the lock before and was killed left a folder.
  for (const left of readdirSync(folder).filter((entry) => entry.startsWith(`${basename(target)}.building-`)))
    removeBuild(join(folder, left));
  const temporary = mkdtempSync(`${target}.building-`);
  try {
    await recipe.build(temporary, options.progress ?? (() => {}));
    // Guests run unprivileged and read these files.
    chmodSync(temporary, 0o755);
    renameSync(temporary, target);
  } finally {
    removeBuild(temporary);
  }
  removeOlder(folder, target);
  return target;
}

/**
 * Removes a folder that was built in. A builder that was killed may have left this host's own file systems mounted in it: they are taken out
 * first, or what is on them would be removed with it. Raises AppError conflict when one cannot be taken out.
 */
export function removeBuild(path: string): void {
  for (const mount of listMountsBelow(path)) spawnSync('umount', ['--', mount]);
  const left = listMountsBelow(path);
  if (left.length > 0)
    throw new AppError(
      'conflict',
      `removing ${path}: ${left.join(', ')} is mounted in it and cannot be taken out; unmount it, then try again`,
    );
  rmSync(path, { recursive: true, force: true });
}

/** Mount points at or below `path`, the innermost first. */
function listMountsBelow(path: string): string[] {
  const points = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '');
  return points.filter((point) => point === path || point.startsWith(`${path}/`)).toReversed();
}

/** Keeps the disk from filling with every version ever built: what was not used by the newest sources for a day goes. */
function removeOlder(folder: string, keep: string): void {
  const dayMs = 86_400_000;
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    if (path === keep || name.endsWith('.lock')) continue;
    const changedAtMs = statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Infinity;
    if (changedAtMs < Date.now() - dayMs) removeBuild(path);
  }
}

/** A lock file holding its owner's pid; the lock of a dead owner is taken over. */
async function takeLock(path: string): Promise<AsyncDisposable> {
  const giveUpAtMs = performance.now() + buildMs;
  while (!tryLock(path)) {
    if (performance.now() > giveUpAtMs) {
      throw new AppError(
        'timeout',
        `waiting for another build: ${path} is still held after ${buildMs} ms; end its owner, then try again`,
      );
    }
    await delay(lockPollMs);
  }
  return { [Symbol.asyncDispose]: async () => rmSync(path, { force: true }) };
}

function tryLock(path: string): boolean {
  try {
    writeFileSync(path, String(process.pid), { flag: 'wx' });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  const owner = existsSync(path) ? readFileSync(path, 'utf8') : '';
  if (owner !== '' && !existsSync(`/proc/${owner}`)) rmSync(path, { force: true });
  return false;
}
