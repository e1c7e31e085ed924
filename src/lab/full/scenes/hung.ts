import { keys } from '#core/ha/keys.ts';
import type { HaStatus, Permit } from '#core/ha/records.ts';
import { readValue, waitUntil } from '#lab/drills/drill-store.ts';
import { simulatorCipherSuite } from '#lab/room/controller.ts';
import { fullLimits } from '../full-limits.ts';
import { findHome, readWitness, type Stage, tinyGuest, waitCopies, waitServing, waitSpeaking } from '../stage.ts';

export type HungResult = {
  node: string;
  /** What the claim rests on. */
  proof: string;
  hungToOffMs: number;
  survivor: string;
  hungToStartMs: number;
  rejoinMs: number;
  broken: string[];
};

/**
 * The guest's machine stands still, its watchdog with it. Its management controller takes its power, the claim rests on that, the guest runs
 * elsewhere, and the controller gives the power back.
 */
export async function playHung(stage: Stage): Promise<HungResult> {
  const { room, store, say } = stage;
  const { node, generation } = await findHome(store);
  const others = room.machines.map(({ name }) => name).filter((name) => name !== node);
  const { controller } = room.controllerOf(node);
  await controller.start();
  try {
    await recordController(stage, node);
    await waitCopies(store, tinyGuest.vmid, generation, others);
    return await hang(stage, node, generation);
  } finally {
    const asked = room.machines.find((machine) => machine.isOn()) ?? room.machines[0]!;
    await asked.shell.must(`holdfast node bmc remove ${node}`).catch((error: Error) => say(error.message));
    controller.stop();
  }
}

/** As docs/install.md says: the password in a file on every node, the rest in the record. */
async function recordController({ room, say }: Stage, node: string): Promise<void> {
  const { address, user, password } = room.controllerOf(node);
  const file = `/etc/holdfast/secrets/bmc-${node}`;
  for (const { shell } of room.machines)
    await shell.must(`install -d -m 700 /etc/holdfast/secrets; install -m 600 /dev/stdin ${file}`, { input: `${password}\n` });
  const options = `--address ${address} --user ${user} --password-file ${file} --cipher-suite ${simulatorCipherSuite}`;
  await room.byName(node).shell.must(`holdfast node bmc set ${node} ${options}`);
  say(`${node}: its controller is at ${address}`);
}

async function hang(stage: Stage, node: string, generation: number): Promise<HungResult> {
  const { room, store, collector, say } = stage;
  const machine = room.byName(node);
  const before = await readValue<Permit>(store, keys.nodePermit(node));
  const seen = machine.events().length;
  const { atMs } = await machine.hang();
  say(`${node} stands still`);
  const since = (event: string) =>
    machine
      .events()
      .slice(seen)
      .find((entry) => entry.event === event);
  const off = await waitUntil(`the controller of ${node} to take its power`, fullLimits.guestMs, async () => since('power-off'));
  say(`${node}: power off ${((off.atMs - atMs) / 1000).toFixed(2)} s after it stood still`);
  const look = async (): Promise<HaStatus | null> => {
    const now = await readValue<HaStatus>(store, keys.haStatus(tinyGuest.vmid));
    return now !== null && now.node !== node && now.qemuStartedAtMs !== null ? now : null;
  };
  const status = await waitUntil(`guest ${tinyGuest.vmid} to run elsewhere`, fullLimits.guestMs, look, fullLimits.lookMs);
  const permit = await readValue<Permit>(store, keys.nodePermit(node));
  const proof = permit?.state === 'revoked' ? permit.proof.kind : 'not seen';
  const startMs = status.qemuStartedAtMs ?? 0;
  const run = await waitSpeaking(collector, generation + 1);
  say(
    `guest ${tinyGuest.vmid} runs on ${status.node}, started ${((startMs - atMs) / 1000).toFixed(2)} s after ${node} stood still`,
  );
  const on = await waitUntil(
    `${node} to get its power back`,
    fullLimits.guestMs,
    async () => since('power-on'),
    fullLimits.lookMs,
  );
  await machine.waitForLogin();
  await waitServing(store, node, before?.epoch ?? 0);
  const rejoinMs = Date.now() - on.atMs;
  say(`${node} serves again ${(rejoinMs / 1000).toFixed(1)} s after its controller gave it power`);
  const broken: string[] = [];
  const must = (holds: boolean, text: string) => void (holds || broken.push(text));
  const witness = await readWitness(collector);
  must(witness !== null && witness.doubleRuns.length === 0, 'the guest was heard from two places at once');
  must(run.consistent === true, `the guest's disks were not one point: ${run.detail}`);
  must(proof === 'power-off', `the claim rests on ${proof}, not on its power being off`);
  must(since('watchdog') === undefined, 'its watchdog fired although it stood still');
  must(startMs >= off.atMs, 'the guest was started elsewhere before the power was off');
  const [hungToOffMs, hungToStartMs] = [off.atMs - atMs, startMs - atMs].map(Math.round) as [number, number];
  return { node, proof, hungToOffMs, survivor: status.node, hungToStartMs, rejoinMs, broken };
}
