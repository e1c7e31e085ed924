import { writeFileSync } from 'node:fs';
import { formatErrorChain, isAppError } from '#base/error.ts';
import type { DbLoadReport } from '#lab/db-load.ts';
import { startWitness } from '#lab/drills/drill-guests.ts';
import type { DrillImages } from '#lab/drills/drill-lab.ts';
import { openDrillStore, switchQuarantineOff } from '#lab/drills/drill-store.ts';
import { nodeNames } from '#lab/drills/faults/scene.ts';
import { endDatabase, startDatabase } from '#lab/drills/manager/database.ts';
import { restoreLab } from '#lab/drills/manager/restore.ts';
import { listEventsSince, type SceneResult, type Stage } from '#lab/drills/manager/stage.ts';
import { needDatabase, scenes } from '#lab/drills/manager-scenes.ts';
import { startCollectorProcess } from '#lab/drills/measuring.ts';
import { formatSeconds } from '#lab/drills/timeline.ts';
import { findDoubleRuns, startRunSampler } from '#lab/drills/run-sampler.ts';

export type ManagerInside = { lab: string; scenes: string[]; jsonFile: string | null; images: DrillImages };

/** What `--json` writes. `rows`: every row that was acknowledged in all scenes with the database, read back; null: there was none. */
export type ManagerResult = {
  scenes: (SceneResult & { tookMs: number })[];
  rows: DbLoadReport | null;
  doubleRuns: number;
  samplerGapMs: number;
  tookMs: number;
  brokenPromises: string[];
};

const home = 'n1';
const intervalMs = 2_000;
const say = (text: string) => void process.stdout.write(`${text}\n`);

/** Runs inside the client namespace; see manager.ts. Returns the exit code. */
export async function measureManager(options: ManagerInside): Promise<number> {
  const startedMs = performance.now();
  await using store = openDrillStore(options.lab);
  const collector = await startCollectorProcess(options.lab);
  const sampler = startRunSampler(options.lab);
  const { lab, images } = options;
  const stage: Stage = { lab, store, collector, sampler, nodes: nodeNames(lab), images, load: null };
  const result: ManagerResult = { scenes: [], rows: null, doubleRuns: 0, samplerGapMs: 0, tookMs: 0, brokenPromises: [] };
  try {
    await switchQuarantineOff(store);
    const begins = [startWitness(lab, store, images.probe, home, intervalMs)];
    if (needDatabase(options.scenes)) begins.push(startDatabase(stage, home));
    await Promise.all(begins);
    await playScenes(options, stage, result);
  } finally {
    sampler.stop();
    collector.kill();
    stage.load?.kill();
    result.doubleRuns = findDoubleRuns(sampler.spans()).length;
    result.samplerGapMs = sampler.longestGapMs();
    result.tookMs = Math.round(performance.now() - startedMs);
    result.brokenPromises.push(...listBroken(options, result));
    if (options.jsonFile !== null) writeFileSync(options.jsonFile, `${JSON.stringify(result, null, 2)}\n`);
    printEnd(result);
  }
  return result.brokenPromises.length === 0 ? 0 : 1;
}

async function playScenes(options: ManagerInside, stage: Stage, result: ManagerResult): Promise<void> {
  const chosen = scenes.filter((scene) => options.scenes.includes(scene.name));
  for (const scene of chosen) {
    if (!scene.needsDatabase && stage.load !== null) result.rows = await endDatabase(stage);
    const startedMs = performance.now();
    const seen = await playScene(stage, scene);
    const tookMs = Math.round(performance.now() - startedMs);
    result.scenes.push({ ...seen, tookMs });
    printScene(seen, tookMs);
  }
  if (stage.load !== null) result.rows = await endDatabase(stage);
}

/** A scene that cannot be played to its end is a broken promise; the lab is put in order for the next one. */
async function playScene(stage: Stage, { name, play }: (typeof scenes)[number]): Promise<SceneResult> {
  const sinceMs = Date.now();
  try {
    return await play(stage);
  } catch (error) {
    if (!isAppError(error)) throw error;
    say(`scene ${name} broke off; what the cluster has recorded since it began:`);
    for (const event of await listEventsSince(stage, sinceMs))
      say(`  ${formatSeconds(event.atMs - sinceMs)}  ${event.kind}: ${event.text}`);
    await restoreLab(stage);
    return { scene: name, promise: 'could not be played to its end', figures: {}, broken: [formatErrorChain(error)] };
  }
}

function listBroken(options: ManagerInside, result: ManagerResult): string[] {
  const broken = result.scenes.flatMap(({ scene, broken: texts }) => texts.map((text) => `${scene}: ${text}`));
  const missing = options.scenes.filter((name) => !result.scenes.some(({ scene }) => scene === name));
  broken.push(...missing.map((name) => `${name}: never played`));
  if (result.doubleRuns > 0) broken.push(`${result.doubleRuns} double runs`);
  if (needDatabase(options.scenes) && result.rows === null) broken.push('the rows were never read back');
  if (result.rows !== null && result.rows.rowsLost > 0) broken.push(`${result.rows.rowsLost} committed rows are gone`);
  if (result.rows !== null && result.rows.rowsCorrupt > 0) broken.push(`${result.rows.rowsCorrupt} rows have another content`);
  return broken;
}

function printScene({ scene, promise, figures, broken }: SceneResult, tookMs: number): void {
  say(`${broken.length === 0 ? 'held    ' : 'NOT held'}  ${scene.padEnd(11)} ${promise} (${(tookMs / 1_000).toFixed(1)} s)`);
  for (const [name, value] of Object.entries(figures)) say(`${' '.repeat(22)}${name}: ${value}`);
  for (const text of broken) say(`${' '.repeat(22)}NOT held: ${text}`);
}

function printEnd({ rows, doubleRuns, samplerGapMs, tookMs, brokenPromises }: ManagerResult): void {
  if (rows !== null)
    say(`rows committed / lost ${rows.rowsCommitted} / ${rows.rowsLost}, with another content ${rows.rowsCorrupt}`);
  say(`ran on two nodes at once: ${doubleRuns} times (longest gap between two looks ${samplerGapMs} ms)`);
  say(
    `${(tookMs / 1_000).toFixed(0)} s in all; ${brokenPromises.length === 0 ? 'every promise held' : 'NOT every promise held'}`,
  );
}
