import { AppError } from '#base/error.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaStatus } from '#core/ha/records.ts';
import { readValue, waitUntil } from '#lab/drills/drill-store.ts';
import { createJudge } from '#lab/drills/faults/scene.ts';
import { mustOperate, readGuest, type SceneResult, settle, type Stage, waitRunsOn } from '#lab/drills/manager/stage.ts';
import { mustHarmNobody, mustLoseNothing, startWatch, whereRan } from '#lab/drills/manager/watch.ts';
import { waitServing } from '#lab/drills/node-waits.ts';
import { plug } from '#lab/lab.ts';

/** A move by hand whose target loses power once the guest has been stopped for it. */
export async function loseMoveTarget(stage: Stage): Promise<SceneResult> {
  const judge = createJudge();
  const { guest: vmid, home, others } = await settle(stage);
  const target = others[0] ?? '';
  const watch = await startWatch(stage);
  await mustOperate(stage, ['ha', 'move', String(vmid), target]);
  const caught = await waitUntil(
    `guest ${vmid} to be stopped for its move`,
    60_000,
    async () => {
      const status = await readValue<HaStatus>(stage.store, keys.haStatus(vmid));
      return status?.state === 'waiting' ? status : null;
    },
    20,
  );
  const cut = await plug(stage.lab, target, 'off');
  if (cut === null) throw new AppError('conflict', `${target} had no power`);
  const place = await waitRunsOn(stage, vmid, `anywhere but on ${target}`, (node) => node !== target);
  const ranAgainMs = Date.now() - cut.atMs;
  const figures = await mustLoseNothing(stage, watch, judge, 'all told:');
  const record = await readGuest(stage, vmid);
  judge.must(
    record.home === place.node && record.givenUp === undefined,
    'the record names nobody, or somebody else, as its home',
  );
  await plug(stage.lab, target, 'on');
  await waitServing(stage.store, [target]);
  const after = await readGuest(stage, vmid);
  judge.must(after.home === place.node, `it went from ${place.node} to ${after.home} when ${target} came back`);
  await mustHarmNobody(stage, watch.sinceMs, judge, [target]);
  return {
    scene: 'lost-target',
    promise: 'the target of a move by hand loses power on the way: the guest has one owner, loses nothing and runs',
    figures: {
      'cut when': caught.because,
      'from the cut to running ms': ranAgainMs,
      ...figures,
      [`guest ${vmid} ran on`]: whereRan(stage, vmid, watch.sinceMs),
      [`owner (home was ${home}, target ${target})`]: after.home,
    },
    broken: judge.broken,
  };
}
