import { writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaEvent } from '#core/ha/records.ts';
import type { WitnessReport } from '#lab/collector-analysis.ts';
import { probeGuest, startWitness, waitHeard, waitReplicated, waitRunning } from '#lab/drills/drill-guests.ts';
import type { PullRole } from '#lab/drills/drill-names.ts';
import type { DrillImages } from '#lab/drills/drill-lab.ts';
import { type DrillStore, listValues, openDrillStore, readValue, switchQuarantineOff } from '#lab/drills/drill-store.ts';
import type { LineProcess } from '#lab/drills/line-process.ts';
import { startCollectorProcess } from '#lab/drills/measuring.ts';
import { waitServing } from '#lab/drills/node-waits.ts';
import { arrangeRole, readLeaders, roleOf } from '#lab/drills/roles.ts';
import { findDoubleRuns, type RunSampler, startRunSampler } from '#lab/drills/run-sampler.ts';
import { type Spread, spreadOf } from '#lab/drills/statistics.ts';
import { labContext, plug } from '#lab/lab.ts';
import { readLabEvents } from '#lab/lab-event.ts';

export type PullsInside = {
  lab: string;
  count: number;
  roles: PullRole[];
  jsonFile: string | null;
  controller: boolean;
  images: DrillImages;
};

/** One pull, as observed. */
export type Pull = {
  role: PullRole;
  node: string;
  target: string;
  proof: string;
  plugToClaimMs: number;
  plugToStartMs: number;
  dataAgeMs: number;
  /** Nodes that lost power or their permit although nobody pulled them. */
  falseFencings: string[];
  /** Times at which either eye saw the guest on two nodes, from this pull until the next. */
  doubleRuns: number;
};

export type RoleFigures = {
  plugToStartMs: Spread | null;
  dataAgeMs: Spread | null;
  doubleRuns: number;
  falseFencings: number;
};

export type PullsResult = {
  controller: boolean;
  promisedStartMs: number;
  roles: Record<string, RoleFigures>;
  doubleRuns: number;
  falseFencings: number;
  samplerGapMs: number;
  pulls: Pull[];
  witness: WitnessReport[];
  brokenPromises: string[];
};

/** Replication interval of the pulled guest. */
const intervalMs = 2_000;
const say = (text: string) => void process.stdout.write(`${text}\n`);

/** Runs inside the client namespace; see pulls.ts. Returns the exit code. */
export async function measurePulls(options: PullsInside): Promise<number> {
  await using store = openDrillStore(options.lab);
  const collector = await startCollectorProcess(options.lab);
  const sampler = startRunSampler(options.lab);
  const eyes: Eyes = { store, collector, sampler };
  try {
    await switchQuarantineOff(store);
    await startWitness(options.lab, store, options.images.probe, 'n1', intervalMs);
    const pulls: Pull[] = [];
    for (let turn = 0; turn < options.count; turn += 1) {
      for (const role of options.roles) {
        const pull = await performPull(options, eyes, role);
        pulls.push(pull);
        say(
          `pull ${pulls.length}: ${pull.role.padEnd(7)} ${pull.node} to ${pull.target}: QEMU after ${pull.plugToStartMs} ms ` +
            `(claim ${pull.plugToClaimMs} ms by ${pull.proof}), data age ${pull.dataAgeMs} ms`,
        );
      }
    }
    const last = await readValue<GuestRecord>(store, keys.guest(probeGuest.vmid));
    await waitHeard(collector, probeGuest.vmid, last?.generation ?? 0);
    const { guests } = await collector.ask<{ guests: WitnessReport[] }>('report', 10_000);
    const result = judgePulls(options, pulls, guests, countDoubleRuns(sampler, guests), sampler.longestGapMs());
    if (options.jsonFile !== null) writeFileSync(options.jsonFile, `${JSON.stringify(result, null, 2)}\n`);
    printPulls(result);
    return result.brokenPromises.length === 0 ? 0 : 1;
  } finally {
    sampler.stop();
    collector.kill();
  }
}

type Eyes = { store: DrillStore; collector: LineProcess; sampler: RunSampler };

function countDoubleRuns(sampler: RunSampler, guests: WitnessReport[]): number {
  return findDoubleRuns(sampler.spans()).length + guests.reduce((sum, guest) => sum + guest.doubleRuns.length, 0);
}

async function performPull(options: PullsInside, eyes: Eyes, role: PullRole): Promise<Pull> {
  const { vmid } = probeGuest;
  const { store, collector, sampler } = eyes;
  const readDoubleRuns = async () => {
    const { guests } = await collector.ask<{ guests: WitnessReport[] }>('report', 10_000);
    return countDoubleRuns(sampler, guests);
  };
  const before = await readValue<GuestRecord>(store, keys.guest(vmid));
  if (before === null) throw new Error(`guest ${vmid} has no record`);
  const node = before.home;
  const others = labContext(options.lab)
    .nodes.map((entry) => entry.name)
    .filter((name) => name !== node);
  await waitHeard(collector, vmid, before.generation);
  await waitReplicated(store, vmid, before.generation, others, 120_000, Date.now());
  await waitServing(store, [node, ...others]);
  await arrangeRole(options.lab, store, node, role);
  const doubleRunsBefore = await readDoubleRuns();
  // Anywhere within an interval, as real losses are.
  await delay(Math.random() * intervalMs);
  const seenRole = roleOf(node, await readLeaders(store));
  const seenLab = readLabEvents(options.lab).length;
  const cut = await plug(options.lab, node, 'off', { keepBmc: options.controller });
  if (cut === null) throw new Error(`${node} had no power`);
  const status = await waitRunning(store, vmid, before.generation + 1, 90_000);
  await plug(options.lab, node, 'on');
  await waitServing(store, [node]);
  await waitReplicated(store, vmid, before.generation + 1, [node], 120_000);
  await waitHeard(collector, vmid, before.generation + 1);
  const events = await listValues<HaEvent>(store, prefixes.haEvents);
  const claims = events.filter((event) => event.kind === 'claimed' && event.atMs >= cut.atMs);
  const claim = claims.find((event) => event.node === node);
  const lost = readLabEvents(options.lab)
    .slice(seenLab)
    .flatMap((event) => (event.event === 'power-off' && event.node !== node ? [event.node] : []));
  return {
    role: seenRole,
    node,
    target: status.node,
    proof: claim?.proof?.kind ?? 'unknown',
    plugToClaimMs: Math.round((claim?.atMs ?? Number.NaN) - cut.atMs),
    plugToStartMs: Math.round((status.qemuStartedAtMs ?? Number.NaN) - cut.atMs),
    dataAgeMs: Math.round(cut.atMs - (status.promoted?.pointAtMs ?? Number.NaN)),
    doubleRuns: (await readDoubleRuns()) - doubleRunsBefore,
    falseFencings: [...claims.filter((event) => event.node !== node).map((event) => event.node), ...lost],
  };
}

function judgePulls(
  options: PullsInside,
  pulls: Pull[],
  witness: WitnessReport[],
  doubleRuns: number,
  samplerGapMs: number,
): PullsResult {
  const promisedStartMs = options.controller ? 10_000 : 20_000;
  const roles: Record<string, RoleFigures> = {};
  for (const role of options.roles) {
    const own = pulls.filter((pull) => pull.role === role);
    roles[role] = {
      plugToStartMs: spreadOf(own.map((pull) => pull.plugToStartMs)),
      dataAgeMs: spreadOf(own.map((pull) => pull.dataAgeMs)),
      doubleRuns: own.reduce((sum, pull) => sum + pull.doubleRuns, 0),
      falseFencings: own.reduce((sum, pull) => sum + pull.falseFencings.length, 0),
    };
  }
  const falseFencings = pulls.reduce((sum, pull) => sum + pull.falseFencings.length, 0);
  const broken: string[] = [];
  if (doubleRuns > 0) broken.push(`${doubleRuns} double runs`);
  if (falseFencings > 0) broken.push(`${falseFencings} nodes fenced although nobody pulled them`);
  for (const [index, pull] of pulls.entries()) {
    if (!(pull.plugToStartMs <= promisedStartMs)) broken.push(`pull ${index + 1}: QEMU after ${pull.plugToStartMs} ms`);
  }
  for (const run of witness.flatMap((guest) => guest.runs)) {
    if (run.consistent === false)
      broken.push(`generation ${run.generation} began on disks that are no whole point: ${run.detail}`);
    if (run.ioErrors > 0) broken.push(`generation ${run.generation} saw ${run.ioErrors} I/O errors`);
  }
  if (witness.length === 0) broken.push('the witness was never heard');
  return {
    controller: options.controller,
    promisedStartMs,
    roles,
    doubleRuns,
    falseFencings,
    samplerGapMs,
    pulls,
    witness,
    brokenPromises: broken,
  };
}

function printPulls(result: PullsResult): void {
  say('');
  say(
    `plug to QEMU start, ms (promised: at most ${result.promisedStartMs})        data age, ms                       runs   fencings`,
  );
  say('role      pulls     min     p50     p99     max        min     p50     p99     max    doubled      false');
  const cells = (spread: Spread | null) =>
    [spread?.min, spread?.p50, spread?.p99, spread?.max].map((value) => String(value ?? '-').padStart(8)).join('');
  for (const [role, figures] of Object.entries(result.roles)) {
    const count = String(figures.plugToStartMs?.count ?? 0).padStart(6);
    const counts = `${String(figures.doubleRuns).padStart(11)}${String(figures.falseFencings).padStart(11)}`;
    say(`${role.padEnd(8)}${count} ${cells(figures.plugToStartMs)}   ${cells(figures.dataAgeMs)}${counts}`);
  }
  say(
    `double runs ${result.doubleRuns}, false fencings ${result.falseFencings} (longest gap between two looks ${result.samplerGapMs} ms)`,
  );
  for (const text of result.brokenPromises) say(`BROKEN: ${text}`);
  if (result.brokenPromises.length === 0) say('every promise held');
}
