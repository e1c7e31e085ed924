import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { BackupBasis } from '#core/guest-backup/plan-backup.ts';

/**
 * Which backup the bitmap for each target counts from. Like the bitmaps it outlives the agent and not QEMU: `pid` ties it to that process.
 */
type BasisFile = { pid: number; targets: Record<string, BackupBasis> };

const fileName = 'backup-basis.json';

/** What an earlier agent wrote for this very QEMU process, by target; nothing when there is none or a crash tore it: then all is compared. */
export async function readBackupBases(directory: string, pid: number): Promise<Map<string, BackupBasis>> {
  try {
    const file = JSON.parse(await readFile(join(directory, fileName), 'utf8')) as BasisFile;
    return new Map(file.pid === pid ? Object.entries(file.targets) : []);
  } catch {
    return new Map();
  }
}

/** Written before a point is taken, before the target is told to finish, and after it has. */
export async function writeBackupBases(directory: string, pid: number, bases: ReadonlyMap<string, BackupBasis>): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o711 });
  const file: BasisFile = { pid, targets: Object.fromEntries(bases) };
  const path = join(directory, fileName);
  await writeFile(`${path}.tmp`, JSON.stringify(file));
  await rename(`${path}.tmp`, path);
}
