import { readFileSync } from 'node:fs';

/** A process, told apart from a later one that got the same number. Start times are in clock ticks since boot (proc(5)). */
export type ProcessIdentity = { pid: number; startTicks: number };

/** Start time of a process, from /proc/PID/stat; null: it is gone, or a zombie that only waits to be reaped. */
export function readStartTicks(pid: number): number | null {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return null;
  }
  return parseStartTicks(text);
}

/** As `readStartTicks`, from the text. The name, in brackets, may itself hold brackets and spaces: fields count from the last one. */
export function parseStartTicks(stat: string): number | null {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state] = fields;
  if (state === 'Z' || state === 'X') return null;
  const startTicks = Number(fields[19]);
  return Number.isInteger(startTicks) ? startTicks : null;
}

/** True while that very process lives. */
export function isAlive(process: ProcessIdentity): boolean {
  return readStartTicks(process.pid) === process.startTicks;
}
