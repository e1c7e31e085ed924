import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { BitmapBasis } from '#core/replica/send-plan.ts';

/**
 * Which point each target's bitmap counts from. It lives in the run folder, for the bitmaps live in the QEMU process: both survive a restart of
 * the agent and neither a restart of the machine. `pid` ties it to that process.
 */
export type BasisFile = { pid: number; bases: Record<string, BitmapBasis> };

/** What an earlier agent wrote for this very QEMU process; nothing when there is none. */
export async function readBases(directory: string, pid: number): Promise<Map<string, BitmapBasis>> {
  const text = await readFile(join(directory, 'basis.json'), 'utf8').catch(() => null);
  if (text === null) return new Map();
  try {
    const file = JSON.parse(text) as BasisFile;
    return new Map(file.pid === pid ? Object.entries(file.bases) : []);
  } catch {
    return new Map(); // torn by a crash: the next cycle compares
  }
}

/** Written before a point is sent and after it was acknowledged, so that a crash in between leaves a known pair of points. */
export async function writeBases(directory: string, pid: number, bases: ReadonlyMap<string, BitmapBasis>): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o711 });
  const file: BasisFile = { pid, bases: Object.fromEntries(bases) };
  const path = join(directory, 'basis.json');
  await writeFile(`${path}.tmp`, JSON.stringify(file));
  await rename(`${path}.tmp`, path);
}
