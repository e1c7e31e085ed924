import type { CacheOptions } from './cache.ts';
import { type EhrDbImage, ensureEhrDb } from './ehr-db.ts';
import { type LabKernel, ensureKernel } from './kernel.ts';
import { type ProbeImage, ensureProbe } from './probe.ts';

/** Everything the lab's guests boot from. */
export type LabImages = { kernel: LabKernel; probe: ProbeImage; ehrDb: EhrDbImage };

/** Builds whatever is not in the cache yet, one after the other; quick when all of it is there. */
export async function ensureImages(options: CacheOptions = {}): Promise<LabImages> {
  const kernel = await ensureKernel(options);
  const probe = await ensureProbe(options);
  const ehrDb = await ensureEhrDb(options);
  return { kernel, probe, ehrDb };
}
