import { setupDrillLab } from '#lab/drills/drill-lab.ts';
import { runInside } from '#lab/drills/inside.ts';
import type { PullRole } from '#lab/drills/drill-names.ts';
import { labDown } from '#lab/lab.ts';

export type PullsOptions = {
  /** null: a lab of its own, taken down at the end. */
  lab: string | null;
  /** Pulls a role. */
  count: number;
  roles: PullRole[];
  jsonFile: string | null;
  /** Leave the management controller its power, so that it can confirm that the node is off. */
  controller: boolean;
};

/** Pulls the plug again and again in a lab of its own. Returns the exit code: 0 when every pull held what is promised. */
export async function runPulls(options: PullsOptions): Promise<number> {
  const lab = options.lab ?? `pulls-${process.pid}`;
  const images = await setupDrillLab({
    lab,
    database: false,
    bmc: options.controller,
    timing: 'standard',
    replaceExisting: options.lab !== null,
    ownerPid: process.pid,
  });
  try {
    return await runInside(lab, 'pulls', { ...options, lab, images });
  } finally {
    await labDown(lab);
  }
}
