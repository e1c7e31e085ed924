import { probeGuest, waitReplicated } from '#lab/drills/drill-guests.ts';
import { waitUntil } from '#lab/drills/drill-store.ts';
import {
  createJudge,
  delay,
  type FaultResult,
  listPowerLosses,
  mustPassUnnoticed,
  mustNeverDouble,
  readWitness,
  type Scene,
  settle,
} from '#lab/drills/faults/scene.ts';
import { readLeaders } from '#lab/drills/roles.ts';
import { listServicePids, signalService, startService, stopService } from '#lab/lab.ts';
import { readLabEvents } from '#lab/lab-event.ts';

/** SIGKILL of the agent: the guest goes on, the next agent finds it and goes on replicating. */
export async function killAgent(scene: Scene): Promise<FaultResult> {
  const judge = createJudge();
  const before = await settle(scene);
  const atMs = Date.now();
  const [old] = await signalService(scene.lab, before.home, 'agent', 'SIGKILL');
  await waitUntil('the agent to be started again', 30_000, async () => {
    await Promise.resolve();
    const pids = listServicePids(scene.lab, before.home, 'agent');
    return pids.length > 0 && !pids.includes(old ?? 0);
  });
  await waitReplicated(scene.store, probeGuest.vmid, before.generation, before.others, 60_000, Date.now());
  const replicatedAfterMs = Date.now() - atMs;
  const after = await mustPassUnnoticed(scene, before.run, atMs, judge);
  await mustNeverDouble(scene, judge);
  return {
    fault: 'agent',
    promise: 'SIGKILL of the agent: the guest notices nothing, the next agent finds it',
    figures: { replicatedAgainAfterMs: replicatedAfterMs, longestSilenceMs: after.longestSilenceMs },
    broken: judge.broken,
  };
}

/** The store's leading member is down for 15 s: nobody freezes, nobody is claimed. */
export async function stopStoreLeader(scene: Scene): Promise<FaultResult> {
  const judge = createJudge();
  const before = await settle(scene);
  const atMs = Date.now();
  const { store: leader } = await readLeaders(scene.store);
  await signalService(scene.lab, leader, 'etcd', 'SIGKILL');
  await stopService(scene.lab, leader, 'etcd');
  const electedMs = await waitUntil('another member to lead', 20_000, async () => {
    const now = (await readLeaders(scene.store)).store;
    return now !== '' && now !== leader ? Date.now() - atMs : null;
  });
  await delay(Math.max(0, 15_000 - electedMs));
  await startService(scene.lab, leader, 'etcd');
  await waitUntil('all members to be healthy', 30_000, async () =>
    (await scene.store.listMembers()).every((member) => member.healthy),
  );
  const after = await mustPassUnnoticed(scene, before.run, atMs, judge);
  return {
    fault: 'store',
    promise: 'the leading etcd member dies: no freeze, no claim, the guest notices nothing',
    figures: { newLeaderAfterMs: electedMs, longestSilenceMs: after.longestSilenceMs },
    broken: judge.broken,
  };
}

/** The relays of home and targets are killed in the middle of cycles. */
export async function killRelays(scene: Scene): Promise<FaultResult> {
  const judge = createJudge();
  const before = await settle(scene);
  const atMs = Date.now();
  for (let turn = 0; turn < 3; turn += 1) {
    for (const node of [before.home, ...before.others]) {
      await signalService(scene.lab, node, 'relay', 'SIGKILL');
      await delay(400 + Math.random() * 600);
    }
  }
  const lastKillAtMs = Date.now();
  await waitReplicated(scene.store, probeGuest.vmid, before.generation, before.others, 60_000, lastKillAtMs);
  const againMs = Date.now() - lastKillAtMs;
  const after = await mustPassUnnoticed(scene, before.run, atMs, judge);
  return {
    fault: 'relay',
    promise: 'relays are killed nine times: the guest notices nothing, copies are fresh again within seconds',
    figures: { kills: 9, freshCopiesAfterMs: againMs, longestWriteMs: after.maxWriteMs },
    broken: judge.broken,
  };
}

/** The guard is stopped (SIGSTOP): nobody pets, the hardware resets the node. */
export async function pauseGuard(scene: Scene): Promise<FaultResult> {
  return loseGuard(
    scene,
    'guard-stop',
    'SIGSTOP',
    'a stopped guard pets nothing: the watchdog resets the node, the guest runs again',
  );
}

/** The guard is killed: as above; no supervisor starts it again. */
export async function killGuard(scene: Scene): Promise<FaultResult> {
  return loseGuard(
    scene,
    'guard-kill',
    'SIGKILL',
    'a dead guard pets nothing: the watchdog resets the node, the guest runs again',
  );
}

async function loseGuard(scene: Scene, fault: string, signal: 'SIGSTOP' | 'SIGKILL', promise: string): Promise<FaultResult> {
  const judge = createJudge();
  const before = await settle(scene);
  const atMs = Date.now();
  await signalService(scene.lab, before.home, 'guard', signal);
  const fired = await waitUntil(`the watchdog of ${before.home} to take its power`, 30_000, async () => {
    await Promise.resolve();
    return readLabEvents(scene.lab).find(
      (event) => event.event === 'power-off' && event.node === before.home && event.by === 'watchdog' && event.atMs >= atMs,
    );
  });
  const after = await waitUntil('the witness to speak from a new boot', 120_000, async () => {
    const run = (await readWitness(scene)).runs.at(-1);
    return run !== undefined && run.bootRandom !== before.run.bootRandom && run.consistent !== null ? run : null;
  });
  const spokeAfterMs = after.firstAtMs - atMs;
  judge.must(after.consistent === true, `the disks were no whole point: ${after.detail}`);
  await settle(scene);
  await mustNeverDouble(scene, judge);
  const innocent = listPowerLosses(scene, atMs).filter((event) => 'node' in event && event.node !== before.home);
  judge.must(innocent.length === 0, `another node lost power: ${JSON.stringify(innocent[0])}`);
  return {
    fault,
    promise,
    figures: { resetAfterMs: fired.atMs - atMs, guestSpeaksAgainAfterMs: spokeAfterMs, generation: after.generation },
    broken: judge.broken,
  };
}
