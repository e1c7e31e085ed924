import { AppError } from '#base/error.ts';
import type { Writer } from '#cli/world.ts';
import type { BackupScene, FaultName, DiskKind, FullScene, ManagerScene, PullRole } from '#lab/drills/drill-names.ts';

/** The machine room, as far as the commands use it. */
export type LabTools = Pick<
  typeof import('#lab/lab.ts'),
  'labDown' | 'labStatus' | 'link' | 'plug' | 'signalService' | 'startService' | 'stopService' | 'switchPower'
> &
  Pick<typeof import('#lab/lab-up.ts'), 'labUp'> &
  Pick<typeof import('#lab/lab-event.ts'), 'readLabEvents'> &
  Pick<typeof import('#cli/lab-place.ts'), 'chooseLab' | 'defaultLab' | 'runInNode'>;

/** Loads the machine room only when it is asked for. */
export async function loadLab(): Promise<LabTools> {
  const [lab, up, events, place] = await load(() =>
    Promise.all([import('#lab/lab.ts'), import('#lab/lab-up.ts'), import('#lab/lab-event.ts'), import('#cli/lab-place.ts')]),
  );
  return { ...lab, ...up, ...events, ...place };
}

/** What the drills are given. Each returns the exit code: 0 when every promise was kept. */
type DrillContext = {
  /** null: the default lab. */
  lab: string | null;
  /** Absolute; null: no file wanted. */
  jsonFile: string | null;
  out: Writer;
  err: Writer;
  signal: AbortSignal;
};

export type DrillTools = {
  runMainJob: (options: DrillContext & { once: boolean }) => Promise<number>;
  runFull: (
    options: DrillContext & { once: boolean; reuse: boolean; scenes: FullScene[] | { alone: readonly DiskKind[] } },
  ) => Promise<number>;
  runPulls: (options: DrillContext & { count: number; roles: PullRole[]; controller: boolean }) => Promise<number>;
  runFaults: (options: DrillContext & { faults: FaultName[] }) => Promise<number>;
  runBackup: (options: DrillContext & { scenes: BackupScene[] }) => Promise<number>;
  runManager: (options: DrillContext & { scenes: ManagerScene[] }) => Promise<number>;
};

/** The drills, each loaded when it is asked for: they bring the whole lab along. Raise AppError unsupported where they are not installed. */
export const drillTools: DrillTools = {
  runMainJob: async (options) => (await load(() => import('#lab/drills/main-job.ts'))).runMainJob(options),
  runFull: async (options) => (await load(() => import('#lab/full/full.ts'))).runFull(options),
  runFaults: async (options) => (await load(() => import('#lab/drills/faults.ts'))).runFaults(options),
  runBackup: async (options) => (await load(() => import('#lab/drills/backup.ts'))).runBackup(options),
  runManager: async (options) => (await load(() => import('#lab/drills/manager.ts'))).runManager(options),
  runPulls: async (options) => (await load(() => import('#lab/drills/pulls.ts'))).runPulls(options),
};

function load<T>(bring: () => Promise<T>): Promise<T> {
  return loadPart(bring, 'the lab and its drills are not part of this installation');
}

/** Loads a part that an installation need not have. Raises AppError unsupported with `otherwise` where it is not there. */
export async function loadPart<T>(bring: () => Promise<T>, otherwise: string): Promise<T> {
  try {
    return await bring();
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw cause;
    throw new AppError('unsupported', otherwise, { cause });
  }
}
