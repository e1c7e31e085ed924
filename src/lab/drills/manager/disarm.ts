import { timingProfiles } from '#core/ha/timing.ts';
import { probeGuest } from '#lab/drills/drill-guests.ts';
import { waitUntil } from '#lab/drills/drill-store.ts';
import { createJudge, delay, mustNeverDouble, readWitness, waitSpeaking } from '#lab/drills/faults/scene.ts';
import { mustOperate, type SceneResult, settle, type Stage, waitRecord } from '#lab/drills/manager/stage.ts';
import { mustHarmNobody } from '#lab/drills/manager/watch.ts';
import { waitServing } from '#lab/drills/node-waits.ts';
import { startService, stopService } from '#lab/lab.ts';
import { readLabEvents } from '#lab/lab-event.ts';

const { softMs, watchdogMs } = timingProfiles.standard;
/** Longer than an armed node would stay alive without quorum. */
const withoutQuorumMs = softMs + watchdogMs + 4_000;
/** The guest notices nothing: its silence stays below this. */
const silenceLimitMs = 2_000;

/** Disarmed for work on the store: it loses its majority, and no guest and no node is harmed; armed again, guards serve. */
export async function disarmForWork(stage: Stage): Promise<SceneResult> {
  const judge = createJudge();
  const { others } = await settle(stage);
  const before = await waitSpeaking(stage, Date.now());
  const sinceMs = Date.now();
  const disarm = await mustOperate(stage, ['ha', 'disarm', '--mode', 'hold', '--wait']);
  const closed = listWatchdogs(stage, 'watchdog-disarmed', sinceMs);
  judge.must(closed.length === stage.nodes.length, `watchdogs are closed on ${closed.join(', ')} only`);
  const held = await waitRecord(stage, probeGuest.vmid, 'to be held', ({ ha }) => ha?.state.kind === 'frozen');

  for (const node of others) await stopService(stage.lab, node, 'etcd');
  const stoppedAtMs = Date.now();
  await delay(withoutQuorumMs);
  const startedAtMs = Date.now();
  const ran = stage.sampler
    .spans()
    .some((span) => span.vmid === probeGuest.vmid && span.fromMs < stoppedAtMs && span.untilMs >= startedAtMs - 500);
  judge.must(ran, 'the guest was frozen or ended while the store was down');
  for (const node of others) await startService(stage.lab, node, 'etcd');
  await waitUntil('all members to be healthy', 60_000, async () =>
    (await stage.store.listMembers()).every((member) => member.healthy),
  );

  const armAtMs = Date.now();
  await mustOperate(stage, ['ha', 'arm']);
  await waitServing(stage.store, stage.nodes);
  const servingMs = Date.now() - armAtMs;
  const opened = listWatchdogs(stage, 'watchdog-armed', armAtMs);
  judge.must(opened.length === stage.nodes.length, `watchdogs are open again on ${opened.join(', ')} only`);
  await waitRecord(stage, probeGuest.vmid, 'to be managed again', ({ ha }) => ha?.state.kind === 'active');
  const after = await waitSpeaking(stage, Date.now());
  judge.must(after.bootRandom === before.bootRandom, 'the guest was restarted');
  const gaps = (await readWitness(stage)).runs.at(-1)?.gaps.filter((gap) => gap.fromAtMs >= sinceMs) ?? [];
  const silentMs = Math.max(0, ...gaps.map((gap) => gap.silentMs));
  judge.must(silentMs < silenceLimitMs, `the guest was silent for ${silentMs} ms`);
  await mustHarmNobody(stage, sinceMs, judge, []);
  await mustNeverDouble(stage, judge);
  return {
    scene: 'disarm',
    promise: 'disarmed (hold), the store loses its majority: no node is reset, no guest frozen; armed again, every guard serves',
    figures: {
      'disarmed after ms': disarm.tookMs,
      'without quorum ms': startedAtMs - stoppedAtMs,
      'guest meanwhile': held.ha?.because ?? '',
      'longest gap of the guest ms': silentMs,
      'serving again after ms': servingMs,
    },
    broken: judge.broken,
  };
}

function listWatchdogs(stage: Stage, event: 'watchdog-armed' | 'watchdog-disarmed', sinceMs: number): string[] {
  const own = readLabEvents(stage.lab).flatMap((entry) =>
    entry.event === event && entry.atMs >= sinceMs && 'node' in entry ? [entry.node] : [],
  );
  return [...new Set(own)].sort();
}
