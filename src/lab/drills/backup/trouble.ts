import { setTimeout as delay } from 'node:timers/promises';
import { prefixes } from '#core/ha/keys.ts';
import type { RequestRecord } from '#core/ha/requests.ts';
import { formatLatency, readLatency } from '#lab/drills/backup/latency.ts';
import { addTarget, backUp, type BackupStage, quietMs, readQuiet, waitRows } from '#lab/drills/backup/stage.ts';
import { listValues, waitUntil } from '#lab/drills/drill-store.ts';
import { createJudge } from '#lab/drills/faults/scene.ts';
import type { Figures, SceneResult } from '#lab/drills/manager/stage.ts';

/** A backup must still be under way when the trouble comes. */
const slow = ['--rate', '2M'];
/** How much slower commits may become, as p99 against what it was when nothing was backed up. */
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
    // Just before: on a machine that is shared it is another one a minute later.
    const quiet = await readQuiet(stage);
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
      // As long as was looked at before: of a hundred commits p99 is the slowest one.
      await delay(Math.max(0, fromMs + quietMs - Date.now()));
    } finally {
      await heal();
      await running;
    }
    const seen = readLatency(stage.lab, fromMs, Date.now());
    figures[`${name}: commits before`] = formatLatency(quiet);
    figures[`${name}: commits meanwhile`] = formatLatency(seen);
    judge.must(seen.p99Ms <= quiet.p99Ms * slowest, `${name}: p99 of commits was ${seen.p99Ms} ms, ${quiet.p99Ms} ms when quiet`);
  };
  await endure(
    'stalled',
    'trouble',
    slow,
    async () => {
      await waitSending(stage);
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
      await waitSending(stage);
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

/** Returns when a backup says that it has sent something. */
function waitSending({ store }: BackupStage): Promise<true> {
  return waitUntil('a backup to be under way', 60_000, async () => {
    const requests = await listValues<RequestRecord>(store, prefixes.requests);
    const isSending = (request: RequestRecord): boolean =>
      request.kind === 'guest-backup' && request.state === 'running' && (request.progress.doneBytes ?? 0) > 0;
    return requests.some(isSending) ? true : null;
  });
}
