import type { BackupScene } from '#lab/drills/drill-names.ts';
import { setupDrillLab } from '#lab/drills/drill-lab.ts';
import { runInside } from '#lab/drills/inside.ts';
import { labDown } from '#lab/lab.ts';

export type BackupDrillOptions = {
  /** null: a lab of its own, taken down at the end. */
  lab: string | null;
  jsonFile: string | null;
  scenes: readonly BackupScene[];
};

/** Backs the database up under load, with trouble at the targets, and restores it. Returns the exit code: 0 when every promise held. */
export async function runBackup(options: BackupDrillOptions): Promise<number> {
  const lab = options.lab ?? `backup-${process.pid}`;
  const images = await setupDrillLab({
    lab,
    database: true,
    bmc: false,
    timing: 'standard',
    replaceExisting: options.lab !== null,
    ownerPid: process.pid,
  });
  try {
    return await runInside(lab, 'backup', { jsonFile: options.jsonFile, lab, images, scenes: options.scenes });
  } finally {
    await labDown(lab);
  }
}
