import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '#base/error.ts';
import type { GuestCgroup } from '#ports/guest-cgroup.ts';

/**
 * The HA guests' control group on cgroup version 2: `root/e<epoch>/<vmid>` (Documentation/admin-guide/cgroup-v2.rst: cgroup.freeze,
 * cgroup.kill, cgroup.events). `root` itself is made when its parent is there. All calls are short, synchronous kernel calls: the
 * guard must not wait in between. Methods raise AppError unavailable when the kernel refuses.
 */
export function createGuestCgroup(root: string): GuestCgroup {
  const groupOf = (epoch: number) => join(root, `e${epoch}`);
  const write = (epoch: number, file: string, value: '0' | '1') => {
    attempt(`writing ${value} to ${file} of guests' control group ${groupOf(epoch)}`, () => {
      ignoreMissing(() => writeFileSync(join(groupOf(epoch), file), value));
    });
  };
  return {
    createEpoch(epoch) {
      attempt(`making guests' control group ${groupOf(epoch)}`, () => {
        makeDirectory(root);
        makeDirectory(groupOf(epoch));
      });
    },
    listEpochs() {
      return attempt(`listing guests' control groups in ${root}`, () => listNumbered(root));
    },
    freeze: (epoch) => write(epoch, 'cgroup.freeze', '1'),
    thaw: (epoch) => write(epoch, 'cgroup.freeze', '0'),
    kill: (epoch) => write(epoch, 'cgroup.kill', '1'),
    readState(epoch) {
      return attempt(`reading the state of guests' control group ${groupOf(epoch)}`, () => readEvents(groupOf(epoch)));
    },
    remove(epoch) {
      attempt(`removing guests' control group ${groupOf(epoch)}`, () => removeTree(groupOf(epoch)));
    },
  };
}

function listNumbered(root: string): number[] {
  // The kernel's own files there all have a dot in their names; the guard asks ten times a second.
  const names = ignoreMissing(() => readdirSync(root)) ?? [];
  return names
    .filter((name) => /^e[1-9]\d*$/.test(name))
    .map((name) => Number(name.slice(1)))
    .toSorted((a, b) => a - b);
}

function readEvents(group: string): { frozen: boolean; populated: boolean } {
  const events = ignoreMissing(() => readFileSync(join(group, 'cgroup.events'), 'utf8'));
  if (events === null) return { frozen: true, populated: false };
  const lines = events.split('\n');
  return { frozen: lines.includes('frozen 1'), populated: lines.includes('populated 1') };
}

/** Children first; the kernel refuses (EBUSY) while any process is inside, so nothing alive can be lost from sight. */
function removeTree(group: string): void {
  const entries = ignoreMissing(() => readdirSync(group, { withFileTypes: true })) ?? [];
  for (const entry of entries) if (entry.isDirectory()) removeTree(join(group, entry.name));
  ignoreMissing(() => rmdirSync(group));
}

function makeDirectory(directory: string): void {
  try {
    mkdirSync(directory, { mode: 0o755 });
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error;
  }
}

/** null when the group is gone: ENOENT by its path, ENODEV when it goes between opening and reading. */
function ignoreMissing<T>(action: () => T): T | null {
  try {
    return action();
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENODEV') return null;
    throw error;
  }
}

function attempt<T>(what: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw new AppError(codeOf(error) === 'EBUSY' ? 'busy' : 'unavailable', `${what} failed`, { cause: error });
  }
}

function codeOf(error: unknown): string | null {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : null;
}
