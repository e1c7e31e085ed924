import { setupDrillLab } from '#lab/drills/drill-lab.ts';
import { runInside } from '#lab/drills/inside.ts';
import { labDown } from '#lab/lab.ts';

/** The lab that `make run` builds and leaves up. */
export const mainLab = 'lab';

/** A lab that is left up for looking around ends by itself after this. */
const keptMs = 12 * 3_600_000;

export type MainJobOptions = {
  /** null: the lab named `lab`. */
  lab: string | null;
  /** End by itself: the lab is taken down and the exit code tells whether every promise held. */
  once: boolean;
  jsonFile: string | null;
};

/**
 * The main job: three nodes, a database under load, the plug pulled on its node, the database answering again from another node, the
 * old node back. Returns the exit code: 0 when every promise held. Raises AppError when the lab cannot be built.
 */
export async function runMainJob(options: MainJobOptions): Promise<number> {
  const lab = options.lab ?? mainLab;
  const images = await setupDrillLab({
    lab,
    database: true,
    bmc: true,
    timing: 'standard',
    replaceExisting: true,
    ...(options.once ? { ownerPid: process.pid } : { ttlMs: keptMs }),
  });
  try {
    return await runInside(lab, 'main-job', { lab, jsonFile: options.jsonFile, once: options.once, images });
  } finally {
    if (options.once) await labDown(lab);
  }
}
