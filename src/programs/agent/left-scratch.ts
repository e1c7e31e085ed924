import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { guestRunPaths } from '#core/guest/guest-paths.ts';

/**
 * Removes what points of guests kept under the scratch folder whose process is gone: QEMU, or the whole machine, died while one was open, and the guest may
 * run elsewhere by now. A guest that is about to start has its run folder before anything else. Returns whose it was.
 */
export function removeLeftScratch(scratch: string, run: string): number[] {
  if (!existsSync(scratch)) return [];
  return readdirSync(scratch).flatMap((name) => {
    const vmid = Number(/^(\d+)(-backup)?$/.exec(name)?.[1] ?? NaN);
    if (Number.isNaN(vmid) || existsSync(guestRunPaths(run, vmid).folder)) return [];
    rmSync(join(scratch, name), { recursive: true, force: true });
    return [vmid];
  });
}
