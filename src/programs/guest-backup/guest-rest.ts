import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { freezeGuest, thawGuest } from '#adapters/qmp/guest-agent.ts';
import { limits } from '#base/limits.ts';
import { guestRunPaths } from '#core/guest/guest-paths.ts';

/**
 * A guest whose own agent holds its file systems at rest. There is a mark in its run folder from before it is asked until it goes on, so that the
 * next agent lets go what one that died has held.
 */
export type Rest = {
  consistency: 'frozen' | 'crash';
  /** Why it is not at rest; null: it is. */
  because: string | null;
  release(): Promise<void>;
};

/** Never throws: a guest that cannot be brought to rest is taken as a power cut would leave it. */
export async function bringToRest(run: string, vmid: number, wanted: boolean, log: (text: string) => void): Promise<Rest> {
  if (!wanted) return { consistency: 'crash', because: 'not asked for', release: () => Promise.resolve() };
  const paths = guestRunPaths(run, vmid);
  await writeFile(markPath(run, vmid), '');
  const outcome = await freezeGuest(paths.guestAgent, { deadlineMs: limits.guestFreezeMs });
  if (outcome.kind === 'not-frozen') {
    await releaseRest(run, vmid, log);
    return { consistency: 'crash', because: outcome.because, release: () => Promise.resolve() };
  }
  return { consistency: 'frozen', because: null, release: () => releaseRest(run, vmid, log) };
}

/** Lets a guest go on that we, or an earlier agent, may hold at rest. */
export async function releaseRest(run: string, vmid: number, log: (text: string) => void): Promise<void> {
  const trouble = await thawGuest(guestRunPaths(run, vmid).guestAgent);
  if (trouble !== null) log(`guest ${vmid}: letting its file systems go on: ${trouble}`);
  await rm(markPath(run, vmid), { force: true });
}

export function markPath(run: string, vmid: number): string {
  return join(guestRunPaths(run, vmid).folder, 'at-rest');
}
