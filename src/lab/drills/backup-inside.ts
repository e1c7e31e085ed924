import { writeFileSync } from 'node:fs';
import { formatErrorChain, isAppError } from '#base/error.ts';
import { formatSize } from '#core/text/size.ts';
import { openVault } from '#lab/drills/backup/vault.ts';
import { backUpEncrypted, backUpTwice } from '#lab/drills/backup/backing-up.ts';
import { restoreAndRead } from '#lab/drills/backup/restoring.ts';
import { testRestores } from '#lab/drills/backup/testing.ts';
import { troubleTargets } from '#lab/drills/backup/trouble.ts';
import type { BackupStage } from '#lab/drills/backup/stage.ts';
import { type BackupScene, backupScenes } from '#lab/drills/drill-names.ts';
import type { DrillImages } from '#lab/drills/drill-lab.ts';
import { openDrillStore, switchQuarantineOff } from '#lab/drills/drill-store.ts';
import { nodeNames } from '#lab/drills/faults/scene.ts';
import { startDatabase } from '#lab/drills/manager/database.ts';
import type { Figures, SceneResult } from '#lab/drills/manager/stage.ts';
import { startCollectorProcess } from '#lab/drills/measuring.ts';
import { findDoubleRuns, startRunSampler } from '#lab/drills/run-sampler.ts';

export type BackupInside = { lab: string; jsonFile: string | null; images: DrillImages; scenes: readonly BackupScene[] };

/** What `--json` writes. */
export type BackupDrillResult = { scenes: (SceneResult & { tookMs: number })[]; doubleRuns: number; brokenPromises: string[] };

const home = 'n1';
const say = (text: string) => void process.stdout.write(`${text}\n`);

const plays: Record<BackupScene, (stage: BackupStage) => Promise<SceneResult>> = {
  twice: backUpTwice,
  encrypted: backUpEncrypted,
  trouble: troubleTargets,
  tested: testRestores,
  restore: restoreAndRead,
};

/** Runs inside the client namespace; see backup.ts. Returns the exit code. */
export async function measureBackup({ lab, jsonFile, images, scenes: wanted }: BackupInside): Promise<number> {
  await using store = openDrillStore(lab);
  const collector = await startCollectorProcess(lab);
  const sampler = startRunSampler(lab);
  const vault = await openVault(lab);
  const stage: BackupStage = {
    lab,
    store,
    collector,
    sampler,
    nodes: nodeNames(lab),
    images,
    load: null,
    vault,
    home,
  };
  const scenes = backupScenes.filter((name) => wanted.includes(name));
  const result: BackupDrillResult = { scenes: [], doubleRuns: 0, brokenPromises: [] };
  try {
    await switchQuarantineOff(store);
    await startDatabase(stage, home);
    for (const name of scenes) {
      const startedMs = performance.now();
      const seen = await playScene(stage, name, plays[name]);
      result.scenes.push({ ...seen, tookMs: Math.round(performance.now() - startedMs) });
      printScene(seen, performance.now() - startedMs);
    }
  } finally {
    sampler.stop();
    collector.kill();
    stage.load?.kill();
    await vault.end();
    result.doubleRuns = findDoubleRuns(sampler.spans()).length;
    result.brokenPromises.push(...result.scenes.flatMap(({ scene, broken }) => broken.map((text) => `${scene}: ${text}`)));
    for (const name of scenes)
      if (!result.scenes.some(({ scene }) => scene === name)) result.brokenPromises.push(`${name}: never played`);
    if (result.doubleRuns > 0) result.brokenPromises.push(`${result.doubleRuns} double runs`);
    if (jsonFile !== null) writeFileSync(jsonFile, `${JSON.stringify(result, null, 2)}\n`);
    say(result.brokenPromises.length === 0 ? 'every promise held' : 'NOT every promise held');
  }
  return result.brokenPromises.length === 0 ? 0 : 1;
}

async function playScene(
  stage: BackupStage,
  name: string,
  play: (stage: BackupStage) => Promise<SceneResult>,
): Promise<SceneResult> {
  try {
    return await play(stage);
  } catch (error) {
    if (!isAppError(error)) throw error;
    return { scene: name, promise: 'could not be played to its end', figures: {}, broken: [formatErrorChain(error)] };
  }
}

function printScene({ scene, promise, figures, broken }: SceneResult, tookMs: number): void {
  say(`${broken.length === 0 ? 'held    ' : 'NOT held'}  ${scene.padEnd(10)} ${promise} (${(tookMs / 1_000).toFixed(1)} s)`);
  for (const [name, value] of Object.entries(figures satisfies Figures))
    say(`${' '.repeat(21)}${name}: ${name.endsWith('bytes') ? formatSize(Number(value)) : value}`);
  for (const text of broken) say(`${' '.repeat(21)}NOT held: ${text}`);
}
