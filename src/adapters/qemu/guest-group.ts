import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { AppError } from '#base/error.ts';

/** The control group of one guest under one epoch: `<cgroupDir>/e<epoch>/<vmid>`. */
export function guestGroupPath(cgroupDir: string, nodeEpoch: number, vmid: number): string {
  return `${cgroupDir}/e${nodeEpoch}/${vmid}`;
}

/** True while the guard lets guests run under this epoch. */
export function hasEpochGroup(cgroupDir: string, nodeEpoch: number): boolean {
  return existsSync(`${cgroupDir}/e${nodeEpoch}`);
}

/**
 * Makes the guest's group. Not recursive: the epoch's group is the guard's to make, and a missing one means that this order
 * outlived its epoch. Raises AppError conflict then.
 */
export function makeGuestGroup(cgroupDir: string, nodeEpoch: number, vmid: number): string {
  const path = guestGroupPath(cgroupDir, nodeEpoch, vmid);
  try {
    mkdirSync(path);
  } catch (cause) {
    if (codeOf(cause) === 'EEXIST') return path;
    throw new AppError(
      'conflict',
      `start guest ${vmid}: the guests' cgroup of node epoch ${nodeEpoch} is not there; the order is older than the node's permit`,
      { cause },
    );
  }
  return path;
}

/** The group of this guest, of whatever epoch, that still has processes; null: none. */
export function findPopulatedGroup(cgroupDir: string, vmid: number): { path: string; pids: number[] } | null {
  const epochs = listNames(cgroupDir).filter((name) => /^e\d+$/.test(name));
  for (const epoch of epochs) {
    const path = `${cgroupDir}/${epoch}/${vmid}`;
    const pids = readPids(path);
    if (pids.length > 0) return { path, pids };
  }
  return null;
}

/** Kills whatever is inside, frozen or not; a group that is gone holds nothing. Free of the danger of reused process numbers. */
export function killGroup(path: string): void {
  try {
    writeFileSync(`${path}/cgroup.kill`, '1');
  } catch (error) {
    if (!isGone(error)) throw error;
  }
}

/** Processes inside; none when the group is gone. */
export function readPids(path: string): number[] {
  try {
    return readFileSync(`${path}/cgroup.procs`, 'utf8').split('\n').filter(Boolean).map(Number);
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
}

/** Removes the emptied group. The guard may be faster, or still be emptying it: both are fine, it removes the whole epoch. */
export function removeGroup(path: string): void {
  try {
    rmdirSync(path);
  } catch (error) {
    if (!isGone(error) && codeOf(error) !== 'EBUSY') throw error;
  }
}

function listNames(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
}

function isGone(error: unknown): boolean {
  // ENODEV: the group was removed between opening its file and reading it.
  return codeOf(error) === 'ENOENT' || codeOf(error) === 'ENODEV';
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
}
