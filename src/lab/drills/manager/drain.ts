import { createJudge } from '#lab/drills/faults/scene.ts';
import { listAtHome, mustOperate, type SceneResult, settle, type Stage, waitRunsOn } from '#lab/drills/manager/stage.ts';
import { mustHarmNobody, mustLoseNothing, startWatch, whereRan } from '#lab/drills/manager/watch.ts';

/** A node is drained and undrained: its guests leave by a cold hand-over and come back by another one. */
export async function drainAndReturn(stage: Stage): Promise<SceneResult> {
  const judge = createJudge();
  const { guest, home, residents } = await settle(stage);
  const away = await startWatch(stage);
  const drain = await mustOperate(stage, ['ha', 'drain', home, '--wait']);
  const left = await listAtHome(stage, home, residents);
  judge.must(left.length === 0, `${home} is drained and still has guests ${left.join(', ')}`);
  for (const vmid of residents) await waitRunsOn(stage, vmid, `anywhere but on ${home}`, (node) => node !== home);
  const leaving = await mustLoseNothing(stage, away, judge, 'leaving:');
  judge.must((await listAtHome(stage, home, residents)).length === 0, `a guest came back to ${home} while it was drained`);

  const back = await startWatch(stage);
  await mustOperate(stage, ['ha', 'undrain', home]);
  for (const vmid of residents) await waitRunsOn(stage, vmid, `on ${home} again`, (node) => node === home);
  const returnedMs = Date.now() - back.sinceMs;
  const returning = await mustLoseNothing(stage, back, judge, 'returning:');
  await mustHarmNobody(stage, away.sinceMs, judge, []);
  return {
    scene: 'drain',
    promise: 'a drained node gives its guests away by cold hand-over, is empty, and gets them back: no committed row is lost',
    figures: {
      'drained after ms': drain.tookMs,
      ...leaving,
      'returned after ms': returnedMs,
      ...returning,
      [`guest ${guest} ran on`]: whereRan(stage, guest, away.sinceMs),
    },
    broken: judge.broken,
  };
}
