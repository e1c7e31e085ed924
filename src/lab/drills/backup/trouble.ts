import { setTimeout as delay } from 'node:timers/promises';
import { formatLatency, readLatency } from '#lab/drills/backup/latency.ts';
import { addTarget, backUp, type BackupStage, waitRows } from '#lab/drills/backup/stage.ts';
import { createJudge } from '#lab/drills/faults/scene.ts';
import type { Figures, SceneResult } from '#lab/drills/manager/stage.ts';

/** A backup must still be under way when the trouble comes. */
const slow = ['--rate', '2M'];
const beginMs = 4_000;
/** p99 of a few hundred commits on a machine that is shared moves by itself: what it is when nothing is backed up, twice. */
const slowest = 2;

/** Targets that stall, die and fill up during a backup: the database goes on, the backup ends with a reason, the next one succeeds. */
export async function troubleTargets(stage: BackupStage): Promise<SceneResult> {
  const judge = createJudge();
  const figures: Figures = {};
  const { vault } = stage;
  await addTarget(stage, 'trouble', 'plain', null);
  await addTarget(stage, 'small', 'small', null);
  const endure = async (
    name: string,
    target: string,
    options: string[],
    trouble: () => Promise<void>,
    heal: () => Promise<void>,
  ) => {
    const fromMs = Date.now();
    const running = backUp(stage, target, options);
    try {
      await trouble();
      const ended = await running;
      const words = ended.text.trim().split('\n').at(-1) ?? '';
      judge.must(ended.code !== 0, `${name}: the backup says that it succeeded`);
      judge.must(/holdfast: .*could not/.test(words), `${name}: no clear words: ${words}`);
      figures[`${name}: the command says`] = words;
      figures[`${name}: ended after ms`] = Date.now() - fromMs;
    } finally {
      await heal();
      await running;
    }
    const seen = readLatency(stage.lab, fromMs, Date.now());
    figures[`${name}: commits meanwhile`] = formatLatency(seen);
    const quiet = stage.quiet?.p99Ms ?? 0;
    judge.must(seen.p99Ms <= quiet * slowest, `${name}: p99 of commits was ${seen.p99Ms} ms, ${quiet} ms when quiet`);
  };
  await endure(
    'stalled',
    'trouble',
    slow,
    async () => {
      await delay(beginMs);
      vault.signal('SIGSTOP');
    },
    async () => vault.signal('SIGCONT'),
  );
  await waitRows(stage, 10);
  await endure(
    'killed',
    'trouble',
    slow,
    async () => {
      await delay(beginMs);
      vault.signal('SIGKILL');
    },
    () => vault.start(),
  );
  await endure(
    'full',
    'small',
    [],
    () => Promise.resolve(),
    () => Promise.resolve(),
  );
  const next = await backUp(stage, 'trouble');
  judge.must(next.code === 0, `the next backup: ${next.text.trim()}`);
  return {
    scene: 'trouble',
    promise: 'a target that stalls, dies or fills up: commits as quick as within twice of quiet, and a clear end of the backup',
    figures,
    broken: judge.broken,
  };
}
