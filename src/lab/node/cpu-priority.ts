import { readdirSync, writeFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import { listGroupTree } from '#lab/control-group.ts';

/**
 * Sets the nice value of a process with all its threads, and of its session: with autogroups the kernel shares CPU between
 * sessions first and looks at nice values only within one. A process that is gone, or a kernel without autogroups, is no error.
 */
export function setCpuPriority(pid: number, nice: number): void {
  try {
    for (const thread of readdirSync(`/proc/${pid}/task`)) setPriority(Number(thread), nice);
    writeFileSync(`/proc/${pid}/autogroup`, String(nice));
  } catch {
    // priority is a kindness, not a promise
  }
}

/** Gives every guest that appeared since the last look its CPU priority: guests must never starve the store of their own node. */
export function createGuestPriority(haGroup: string, nice: number): () => void {
  let seen = new Set<number>();
  return () => {
    const now = new Set(listGroupTree(haGroup));
    for (const pid of now) if (!seen.has(pid)) setCpuPriority(pid, nice);
    seen = now;
  };
}
