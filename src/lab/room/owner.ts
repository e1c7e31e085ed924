import { readFileSync } from 'node:fs';
import { labLimits } from '#lab/lab-limits.ts';

/** When a process started, in the kernel's ticks: with its pid it names one process for ever. null: there is no such process. */
export function readStartTicks(pid: number): string | null {
  try {
    // The name may hold anything, so count from its closing bracket: field 22 of the whole line (man 5 proc).
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' ? null : (fields[19] ?? null);
  } catch {
    return null;
  }
}

/** Calls `onGone` once when the owner is no more. */
export function watchOwner(owner: { pid: number; startTicks: string }, onGone: () => void): NodeJS.Timeout {
  const timer = setInterval(() => {
    if (readStartTicks(owner.pid) === owner.startTicks) return;
    clearInterval(timer);
    onGone();
  }, labLimits.ownerPollMs);
  return timer;
}
