import { setupDrillLab } from '#lab/drills/drill-lab.ts';
import type { ManagerScene } from '#lab/drills/drill-names.ts';
import { runInside } from '#lab/drills/inside.ts';
import { needDatabase } from '#lab/drills/manager-scenes.ts';
import { labDown } from '#lab/lab.ts';

export type ManagerOptions = {
  /** null: a lab of its own, taken down at the end. */
  lab: string | null;
  scenes: ManagerScene[];
  jsonFile: string | null;
};

/** Plays what an operator may ask of the manager, scene after scene in one lab. Returns the exit code: 0 when every promise held. */
export async function runManager(options: ManagerOptions): Promise<number> {
  const lab = options.lab ?? `manager-${process.pid}`;
  const images = await setupDrillLab({
    lab,
    database: needDatabase(options.scenes),
    bmc: false,
    timing: 'standard',
    replaceExisting: options.lab !== null,
    ownerPid: process.pid,
  });
  try {
    return await runInside(lab, 'manager', { ...options, lab, images });
  } finally {
    await labDown(lab);
  }
}
