import { keys } from '#core/ha/keys.ts';
import type { Permit } from '#core/ha/records.ts';
import { timingProfiles } from '#core/ha/timing.ts';
import { readValue } from '#lab/drills/drill-store.ts';
import { createJudge, delay } from '#lab/drills/faults/scene.ts';
import {
  listAtHome,
  mustOperate,
  readGuest,
  type SceneResult,
  settle,
  type Stage,
  waitRunsOn,
} from '#lab/drills/manager/stage.ts';
import { mustHarmNobody, mustLoseNothing, startWatch, whereRan } from '#lab/drills/manager/watch.ts';
import { waitServing } from '#lab/drills/node-waits.ts';
import { plug } from '#lab/lab.ts';

/** The node stays away so much longer than a silent one is claimed after that others would have had the time to start its guests. */
const awayMs = timingProfiles.standard.claimMs + 4_000;
/** A machine that was shut down and is switched on again at once. */
const briefMs = 1_000;
/** "Within seconds": from the end of a guest here to its QEMU there. */
const overLimitMs = 10_000;

/** Policy conditional, a reboot: guests stop, nobody starts them elsewhere, they run again on their node. */
export async function freezeAtReboot(stage: Stage): Promise<SceneResult> {
  const judge = createJudge();
  const { guest, home, residents } = await settle(stage);
  const generation = (await readGuest(stage, guest)).generation;
  const watch = await startWatch(stage);
  const end = await mustOperate(stage, ['node', 'end', home, '--reboot']);
  const endedAtMs = Date.now();
  await plug(stage.lab, home, 'off');
  await delay(awayMs);
  const elsewhere = stage.sampler.spans().filter((span) => residents.includes(span.vmid) && span.fromMs >= watch.sinceMs);
  judge.must(elsewhere.length === 0, `a guest was started while its node rebooted: ${JSON.stringify(elsewhere[0])}`);
  const still = stage.sampler.spans().filter((span) => residents.includes(span.vmid) && span.untilMs > endedAtMs + 500);
  judge.must(still.length === 0, `${home} was allowed to end while a guest ran: ${JSON.stringify(still[0])}`);
  for (const vmid of residents) {
    const { ha, home: now } = await readGuest(stage, vmid);
    judge.must(ha?.state.kind === 'frozen', `guest ${vmid} is ${ha?.state.kind}: ${ha?.because}`);
    judge.must(now === home, `the home of guest ${vmid} is ${now}`);
  }
  const permit = await readValue<Permit>(stage.store, keys.nodePermit(home));
  await plug(stage.lab, home, 'on');
  const onAtMs = Date.now();
  for (const vmid of residents) await waitRunsOn(stage, vmid, `on ${home} again`, (node) => node === home);
  const ranAgainMs = Date.now() - onAtMs;
  const figures = await mustLoseNothing(stage, watch, judge, 'all told:');
  const after = (await readGuest(stage, guest)).generation;
  judge.must(after === generation, `the generation went from ${generation} to ${after}: it was recovered from a copy`);
  await mustHarmNobody(stage, watch.sinceMs, judge, [home]);
  return {
    scene: 'freeze',
    promise: 'a node that reboots (policy conditional): its guests stop, nobody starts them elsewhere however long it takes',
    figures: {
      'may end after ms': end.tookMs,
      'away ms': awayMs,
      'permit meanwhile': permit?.state ?? 'none',
      'power to guests running ms': ranAgainMs,
      ...figures,
      [`guest ${guest} ran on`]: whereRan(stage, guest, watch.sinceMs),
    },
    broken: judge.broken,
  };
}

/** Policy conditional, a power-off: guests are given up with current copies and run elsewhere at once. */
export async function failOverAtPowerOff(stage: Stage): Promise<SceneResult> {
  const judge = createJudge();
  const { guest, home, residents } = await settle(stage);
  const watch = await startWatch(stage);
  const end = await mustOperate(stage, ['node', 'end', home, '--power-off']);
  for (const vmid of residents) await waitRunsOn(stage, vmid, `anywhere but on ${home}`, (node) => node !== home);
  const gapsMs = residents.map((vmid) => measureHandOver(stage, vmid, home, watch.sinceMs));
  const slowestMs = Math.max(...gapsMs);
  judge.must(slowestMs <= overLimitMs, `QEMU ran elsewhere ${slowestMs} ms after it had ended on ${home}`);
  await plug(stage.lab, home, 'off');
  const figures = await mustLoseNothing(stage, watch, judge, 'all told:');
  await plug(stage.lab, home, 'on');
  await waitServing(stage.store, [home]);
  await mustHarmNobody(stage, watch.sinceMs, judge, [home]);
  return {
    scene: 'failover',
    promise: 'a node that powers off (policy conditional): its guests run elsewhere within seconds, from current copies',
    figures: {
      'may end after ms': end.tookMs,
      'QEMU ended here to started there ms': slowestMs,
      ...figures,
      [`guest ${guest} ran on`]: whereRan(stage, guest, watch.sinceMs),
    },
    broken: judge.broken,
  };
}

function measureHandOver(stage: Stage, vmid: number, home: string, sinceMs: number): number {
  const spans = stage.sampler.spans().filter((span) => span.vmid === vmid && span.untilMs >= sinceMs);
  const endedMs = spans.findLast((span) => span.node === home)?.untilMs ?? Number.NaN;
  const startedMs = spans.find((span) => span.node !== home)?.fromMs ?? Number.NaN;
  return Math.round(startedMs - endedMs);
}

/** Policy migrate: the node may end once its guests have left; they return when it is back. */
export async function migrateAtReboot(stage: Stage): Promise<SceneResult> {
  const judge = createJudge();
  const { guest, home, residents } = await settle(stage);
  const watch = await startWatch(stage);
  const end = await mustOperate(stage, ['node', 'end', home, '--reboot', '--policy', 'migrate']);
  const left = await listAtHome(stage, home, residents);
  judge.must(left.length === 0, `${home} may end and still has guests ${left.join(', ')}`);
  await plug(stage.lab, home, 'off');
  for (const vmid of residents) await waitRunsOn(stage, vmid, `anywhere but on ${home}`, (node) => node !== home);
  const leaving = await mustLoseNothing(stage, watch, judge, 'leaving:');
  await delay(briefMs);
  const back = await startWatch(stage);
  await plug(stage.lab, home, 'on');
  for (const vmid of residents) await waitRunsOn(stage, vmid, `on ${home} again`, (node) => node === home);
  const returnedMs = Date.now() - back.sinceMs;
  const returning = await mustLoseNothing(stage, back, judge, 'returning:');
  await mustHarmNobody(stage, watch.sinceMs, judge, [home]);
  return {
    scene: 'migrate',
    promise: 'a node that reboots under policy migrate: its guests leave first, then it may end, and they return with it',
    figures: {
      'may end after ms': end.tookMs,
      ...leaving,
      'power to returned ms': returnedMs,
      ...returning,
      [`guest ${guest} ran on`]: whereRan(stage, guest, watch.sinceMs),
    },
    broken: judge.broken,
  };
}
