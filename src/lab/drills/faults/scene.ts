import { setTimeout as delay } from 'node:timers/promises';
import { AppError } from '#base/error.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaEvent } from '#core/ha/records.ts';
import type { WitnessReport, WitnessRun } from '#lab/collector-analysis.ts';
import { probeGuest, waitHeard, waitReplicated } from '#lab/drills/drill-guests.ts';
import { type DrillStore, listValues, readValue, waitUntil } from '#lab/drills/drill-store.ts';
import type { LineProcess } from '#lab/drills/line-process.ts';
import { waitServing } from '#lab/drills/node-waits.ts';
import { findDoubleRuns, type RunSampler, type RunSpan } from '#lab/drills/run-sampler.ts';
import { labContext } from '#lab/lab.ts';
import { type LabEvent, readLabEvents } from '#lab/lab-event.ts';

/** Everything a fault needs: the lab, the cluster's record, the witness guest and two independent observers of it. */
export type Scene = { lab: string; store: DrillStore; collector: LineProcess; sampler: RunSampler; nodes: string[] };

/** What one fault showed. `figures` are observed; `broken` lists what was promised and did not hold. */
export type FaultResult = { fault: string; promise: string; figures: Record<string, number | string>; broken: string[] };

/** The guest as it stood before the fault. */
export type Before = { home: string; others: string[]; generation: number; epoch: number; run: WitnessRun; atMs: number };

/** Collects broken promises. */
export function createJudge(): { must(holds: boolean, text: string): void; broken: string[] } {
  const broken: string[] = [];
  return { broken, must: (holds, text) => void (holds || broken.push(text)) };
}

/** Waits until the cluster is whole: every node serves, the witness speaks, both copies are fresh. Returns what stands then. */
export async function settle(scene: Scene): Promise<Before> {
  const { vmid } = probeGuest;
  await waitServing(scene.store, scene.nodes);
  const record = await waitUntil(`guest ${vmid} to have an order that holds`, 60_000, async () => {
    const now = await readValue<GuestRecord>(scene.store, keys.guest(vmid));
    return now?.order?.kind === 'run' ? now : null;
  });
  const others = scene.nodes.filter((name) => name !== record.home);
  await waitHeard(scene.collector, vmid, record.generation);
  await waitReplicated(scene.store, vmid, record.generation, others, 120_000, Date.now());
  const run = (await readWitness(scene)).runs.at(-1);
  if (run === undefined) throw new AppError('missing', 'the witness was never heard');
  return { home: record.home, others, generation: record.generation, epoch: record.order?.nodeEpoch ?? 0, run, atMs: Date.now() };
}

export async function readWitness(scene: Scene): Promise<WitnessReport> {
  const { guests } = await scene.collector.ask<{ guests: WitnessReport[] }>('report', 10_000);
  const own = guests.find((guest) => guest.vmid === probeGuest.vmid);
  if (own === undefined) throw new AppError('missing', 'the witness was never heard');
  return own;
}

/** Waits until the witness spoke after `sinceMs`; returns its newest run. */
export function waitSpeaking(scene: Scene, sinceMs: number, deadlineMs = 120_000): Promise<WitnessRun> {
  return waitUntil('the witness to speak again', deadlineMs, async () => {
    const run = (await readWitness(scene)).runs.at(-1);
    return run !== undefined && run.lastAtMs > sinceMs && run.consistent !== null ? run : null;
  });
}

/** What the room saw since `sinceMs`: nodes that lost power by anything but the plug. */
export function listPowerLosses(scene: Scene, sinceMs: number): LabEvent[] {
  return readLabEvents(scene.lab).filter((event) => event.atMs >= sinceMs && event.event === 'power-off');
}

export async function listClaims(scene: Scene, sinceMs: number): Promise<HaEvent[]> {
  const events = await listValues<HaEvent>(scene.store, prefixes.haEvents);
  return events.filter((event) => event.kind === 'claimed' && event.atMs >= sinceMs);
}

/** Spans of the witness since a time, as the host's kernel showed them. */
export function spansSince(scene: Scene, sinceMs: number): RunSpan[] {
  return scene.sampler.spans().filter((span) => span.vmid === probeGuest.vmid && span.untilMs >= sinceMs);
}

/** Neither the collector nor the host's kernel saw the witness on two nodes at once. */
export async function mustNeverDouble(scene: Scene, judge: ReturnType<typeof createJudge>): Promise<void> {
  const doubles = findDoubleRuns(scene.sampler.spans());
  judge.must(doubles.length === 0, `executed on two nodes at once: ${JSON.stringify(doubles[0])}`);
  const witness = await readWitness(scene);
  judge.must(witness.doubleRuns.length === 0, `two generations spoke at once: ${JSON.stringify(witness.doubleRuns[0])}`);
}

/** The guest went on in the same boot, saw no I/O error, and no write of it took 2 s. */
export function mustBeUndisturbed(before: WitnessRun, after: WitnessRun, judge: ReturnType<typeof createJudge>): void {
  judge.must(after.bootRandom === before.bootRandom, 'the guest was restarted');
  judge.must(after.ioErrors === 0, `the guest saw ${after.ioErrors} I/O errors`);
  const grew = after.maxWriteMs > before.maxWriteMs;
  judge.must(!grew || after.maxWriteMs < 2_000, `a write of the guest took ${after.maxWriteMs} ms`);
}

/** As above, and it was never silent for 2 s, and since `atMs` no node was claimed or lost power. Returns the witness's run as it is now. */
export async function mustPassUnnoticed(
  scene: Scene,
  before: WitnessRun,
  atMs: number,
  judge: ReturnType<typeof createJudge>,
): Promise<WitnessRun> {
  const after = await waitSpeaking(scene, Date.now());
  mustBeUndisturbed(before, after, judge);
  judge.must(after.longestSilenceMs < 2_000, `the guest was silent for ${after.longestSilenceMs} ms`);
  const claims = await listClaims(scene, atMs);
  judge.must(claims.length === 0, `a node was claimed: ${claims[0]?.text}`);
  const losses = listPowerLosses(scene, atMs);
  judge.must(losses.length === 0, `a node lost power: ${JSON.stringify(losses[0])}`);
  return after;
}

export function nodeNames(lab: string): string[] {
  return labContext(lab).nodes.map((node) => node.name);
}

export { delay };
