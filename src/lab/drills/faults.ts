import type { FaultName } from '#lab/drills/drill-names.ts';
import { setupDrillLab } from '#lab/drills/drill-lab.ts';
import { runInside } from '#lab/drills/inside.ts';
import { labDown } from '#lab/lab.ts';

export type FaultsOptions = {
  /** null: a lab of its own, taken down at the end. */
  lab: string | null;
  faults: FaultName[];
  jsonFile: string | null;
};

/** Tries faults one after the other in one lab. Returns the exit code: 0 when every promise held. */
export async function runFaults(options: FaultsOptions): Promise<number> {
  const lab = options.lab ?? `faults-${process.pid}`;
  const images = await setupDrillLab({
    lab,
    database: false,
    bmc: false,
    timing: 'standard',
    replaceExisting: options.lab !== null,
    ownerPid: process.pid,
  });
  try {
    return await runInside(lab, 'faults', { ...options, lab, images });
  } finally {
    await labDown(lab);
  }
}
