import { guestAssets } from '#lab/drills/drill-guests.ts';
import { type EhrDbImage, ensureEhrDb } from '#lab/images/ehr-db.ts';
import { ensureProbe, type ProbeImage } from '#lab/images/probe.ts';
import { labDown } from '#lab/lab.ts';
import { labUp } from '#lab/lab-up.ts';

export type DrillImages = { probe: ProbeImage; ehrDb: EhrDbImage | null };

export type DrillLabOptions = {
  lab: string;
  database: boolean;
  bmc: boolean;
  timing: 'brisk' | 'standard' | 'lenient';
  replaceExisting: boolean;
  /** The lab ends with this process. */
  ownerPid?: number;
  /** The lab ends by itself after this. */
  ttlMs?: number;
};

/** Builds the images that are missing and brings a lab of three nodes up. Progress goes to standard error. */
export async function setupDrillLab(options: DrillLabOptions): Promise<DrillImages> {
  const progress = (text: string) => void process.stderr.write(`  … ${text}\n`);
  const probe = await ensureProbe({ progress });
  const ehrDb = options.database ? await ensureEhrDb({ progress }) : null;
  if (options.replaceExisting && (await labDown(options.lab))) progress(`the lab ${options.lab} that was up is replaced`);
  await labUp({
    name: options.lab,
    nodes: 3,
    bmc: options.bmc,
    timingProfile: options.timing,
    assets: guestAssets({ probe, ehrDb: ehrDb ?? undefined }),
    ownerPid: options.ownerPid,
    ttlMs: options.ttlMs,
    progress,
  });
  return { probe, ehrDb };
}
