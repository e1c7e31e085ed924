import { readFileSync } from 'node:fs';

/** What a process has used of the CPUs since its start, and keeps in memory now. */
export type ProcessUse = { cpuMs: number; memoryBytes: number };

/** The kernel's clock tick as proc(5) counts it: USER_HZ, 100 on every machine that Linux runs QEMU on. */
const tickMs = 10;
const pageBytes = 4096;

/** Reads /proc/PID/stat; null: the process is gone. */
export function readProcessUse(pid: number): ProcessUse | null {
  try {
    return parseProcessUse(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return null;
  }
}

/** As `readProcessUse`, from the text; null when it is none. Fields count from the name's last bracket. */
export function parseProcessUse(stat: string): ProcessUse | null {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [userTicks, systemTicks, pages] = [fields[11], fields[12], fields[21]].map(Number);
  if (userTicks === undefined || systemTicks === undefined || pages === undefined) return null;
  if (![userTicks, systemTicks, pages].every(Number.isInteger)) return null;
  return { cpuMs: (userTicks + systemTicks) * tickMs, memoryBytes: pages * pageBytes };
}
