import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { findCgroup2Mount } from '#adapters/cgroup/cgroup2-mount.ts';
import { AppError } from '#base/error.ts';
import { labLimits } from '#lab/lab-limits.ts';

/** Control groups of the lab: `<root>/hf-lab/<lab>/{room,<node>/{sys/<service>,ha}}`. */
export const labsGroup = 'hf-lab';

/** Makes a group and its parents. */
export function makeGroup(path: string): void {
  mkdirSync(path, { recursive: true });
}

/** Process ids (of the caller's PID namespace) directly in a group; none when the group is gone. */
export function listGroup(path: string): number[] {
  try {
    return readFileSync(join(path, 'cgroup.procs'), 'utf8').trim().split('\n').filter(Boolean).map(Number);
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
}

/** Process ids in a group and all groups below it. */
export function listGroupTree(path: string): number[] {
  return [...listGroup(path), ...childGroups(path).flatMap((child) => listGroupTree(child))];
}

/** Kills every process in a group and below at once; does not wait. A missing group has none. */
export function killGroup(path: string): void {
  try {
    writeFileSync(join(path, 'cgroup.kill'), '1');
  } catch (error) {
    if (!isGone(error)) throw error;
  }
}

/** True while some process (a zombie does not count) is in the group or below it. */
export function isPopulated(path: string): boolean {
  try {
    return /^populated 1$/m.test(readFileSync(join(path, 'cgroup.events'), 'utf8'));
  } catch (error) {
    if (isGone(error)) return false;
    throw error;
  }
}

/** Waits until a killed group is empty. Raises AppError timeout. */
export async function waitUntilEmpty(path: string, deadlineMs: number = labLimits.emptyMs): Promise<void> {
  const untilMs = performance.now() + deadlineMs;
  while (isPopulated(path)) {
    if (performance.now() > untilMs) {
      throw new AppError(
        'timeout',
        `waiting for ${path} to be empty: processes ${listGroupTree(path).join(' ')} are still there`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, labLimits.emptyPollMs));
  }
}

/** Removes an empty group and all empty groups below it; a missing one is fine. */
export function removeGroupTree(path: string): void {
  for (const child of childGroups(path)) removeGroupTree(child);
  try {
    rmdirSync(path);
  } catch (error) {
    if (!isGone(error)) throw new AppError('busy', `removing control group ${path}`, { cause: error });
  }
}

/** Moves the calling process into a group; returns the group it was in. */
export function enterGroup(path: string): string {
  const unified = readFileSync('/proc/self/cgroup', 'utf8')
    .split('\n')
    .find((line) => line.startsWith('0::'));
  writeFileSync(join(path, 'cgroup.procs'), '0');
  return join(findCgroup2Mount(), unified?.slice('0::'.length) ?? '/');
}

function childGroups(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => join(path, entry.name));
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
}

function isGone(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ENOENT' || code === 'ENODEV';
}
