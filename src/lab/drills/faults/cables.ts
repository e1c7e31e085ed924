import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { keys } from '#core/ha/keys.ts';
import type { ReplicaRecord } from '#core/replica/records.ts';
import { timingProfiles } from '#core/ha/timing.ts';
import { probeGuest, waitHeard, waitReplicated, waitRunning } from '#lab/drills/drill-guests.ts';
import { readValue } from '#lab/drills/drill-store.ts';
import {
  createJudge,
  delay,
  type FaultResult,
  listClaims,
  listPowerLosses,
  mustNeverDouble,
  readWitness,
  type Scene,
  settle,
  spansSince,
  waitSpeaking,
} from '#lab/drills/faults/scene.ts';
import { waitServing } from '#lab/drills/node-waits.ts';
import { link, switchPower } from '#lab/lab.ts';

/** The limit by which guests must be frozen: soft, and what the host's scheduler and our looks may add. */
const freezeLimitMs = timingProfiles.standard.softMs + 1_000;
const switchOffMs = 20_000;
/** `status` looks twice, a second and a half apart; the rest is for a busy machine. */
const statusLimitMs = 10_000;

/** All links of the guest's home are cut, and come back after the guest runs elsewhere. */
export async function cutLinks(scene: Scene): Promise<FaultResult> {
  const judge = createJudge();
  const { vmid } = probeGuest;
  const before = await settle(scene);
  const atMs = Date.now();
  await link(scene.lab, before.home, 'down');
  const status = await waitRunning(scene.store, vmid, before.generation + 1, 60_000);
  await waitHeard(scene.collector, vmid, before.generation + 1);
  const [oldSpan] = spansSince(scene, atMs).filter((span) => span.node === before.home);
  const frozenAfterMs = (oldSpan?.untilMs ?? Number.NaN) - atMs;
  judge.must(
    frozenAfterMs <= freezeLimitMs,
    `the guest executed for ${frozenAfterMs} ms after the cut; limit ${freezeLimitMs} ms`,
  );
  judge.must(listPowerLosses(scene, atMs).length === 0, 'a healthy host was reset');
  const statusMs = await timeStatus(scene.lab);
  judge.must(statusMs <= statusLimitMs, `holdfast status took ${statusMs} ms with one node out of reach`);
  const backAtMs = Date.now();
  await link(scene.lab, before.home, 'up');
  await waitServing(scene.store, [before.home]);
  await waitReplicated(scene.store, vmid, before.generation + 1, [before.home], 120_000, backAtMs);
  const thawed = spansSince(scene, backAtMs).filter((span) => span.node === before.home);
  judge.must(thawed.length === 0, `the old guest executed again on ${before.home}: ${JSON.stringify(thawed[0])}`);
  const copy = await readValue<ReplicaRecord>(scene.store, keys.replica(vmid, before.home));
  judge.must((copy?.leftBehind.length ?? 0) > 0, `${before.home} kept no left-behind tail`);
  judge.must((await readWitness(scene)).runs.at(-1)?.consistent === true, 'the copy was no whole point');
  await mustNeverDouble(scene, judge);
  return {
    fault: 'links',
    promise: 'all links of a node are cut: guests frozen within the limit, resumed elsewhere, never both running',
    figures: {
      frozenAfterMs,
      startedElsewhereAfterMs: (status.qemuStartedAtMs ?? Number.NaN) - atMs,
      statusMs,
      leftBehind: copy?.leftBehind.at(-1)?.name ?? 'none',
    },
    broken: judge.broken,
  };
}

/** How long a person waits for `holdfast status`, from the call to the end of its process. */
async function timeStatus(lab: string): Promise<number> {
  const startedAtMs = performance.now();
  const holdfast = fileURLToPath(new URL('../../../../bin/holdfast', import.meta.url));
  // Its exit code tells that not all is well, which is so.
  await new Promise((resolve) => execFile(holdfast, ['--lab', lab, 'status'], { timeout: 60_000 }, resolve));
  return Math.round(performance.now() - startedAtMs);
}

/** The switch is off for 20 s: everybody loses quorum, everybody freezes, nobody is reset or claimed, everybody thaws. */
export async function rebootSwitch(scene: Scene): Promise<FaultResult> {
  const judge = createJudge();
  const before = await settle(scene);
  const atMs = Date.now();
  await switchPower(scene.lab, 'off');
  await delay(switchOffMs);
  const onAtMs = Date.now();
  const executing = spansSince(scene, onAtMs - 500);
  await switchPower(scene.lab, 'on');
  judge.must(executing.length === 0, `the guest was not frozen when the switch came back: ${JSON.stringify(executing[0])}`);
  const oldSpan = spansSince(scene, atMs).find((span) => span.node === before.home);
  const frozenAfterMs = (oldSpan?.untilMs ?? Number.NaN) - atMs;
  judge.must(
    frozenAfterMs <= freezeLimitMs,
    `the guest executed for ${frozenAfterMs} ms without quorum; limit ${freezeLimitMs} ms`,
  );
  await waitServing(scene.store, scene.nodes);
  const after = await waitSpeaking(scene, onAtMs);
  judge.must(after.bootRandom === before.run.bootRandom, 'the guest was restarted');
  const gap = after.gaps.filter((entry) => entry.fromAtMs >= before.atMs - 1_000).toSorted((a, b) => b.silentMs - a.silentMs)[0];
  judge.must(gap?.memoryIntact === true, 'its memory did not survive: uptime or counter fell');
  judge.must(listPowerLosses(scene, atMs).length === 0, 'a node was reset');
  const claims = await listClaims(scene, atMs);
  judge.must(claims.length === 0, `a node was claimed: ${claims[0]?.text}`);
  await mustNeverDouble(scene, judge);
  const resumedAfterMs = (gap === undefined ? Number.NaN : gap.fromAtMs + gap.silentMs) - onAtMs;
  return {
    fault: 'switch',
    promise: 'the switch reboots for 20 s: guests freeze, nobody resets, guests thaw with memory intact',
    figures: { frozenAfterMs, silentMs: gap?.silentMs ?? Number.NaN, speaksAfterSwitchMs: Math.round(resumedAfterMs) },
    broken: judge.broken,
  };
}
