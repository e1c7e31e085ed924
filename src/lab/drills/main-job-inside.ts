import { writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import { type HaEvent, type HaStatus, type Heartbeat, type Permit } from '#core/ha/records.ts';
import type { LeftBehind, ReplicaRecord } from '#core/replica/records.ts';
import type { WitnessReport } from '#lab/collector-analysis.ts';
import type { DbLoadReport, DbLoadState } from '#lab/db-load.ts';
import {
  createDrillGuest,
  databaseConfig,
  databaseGuest,
  probeGuest,
  startWitness,
  waitHeard,
  waitReplicated,
  waitRunning,
} from '#lab/drills/drill-guests.ts';
import type { DrillImages } from '#lab/drills/drill-lab.ts';
import { type DrillStore, listValues, openDrillStore, readValue, waitUntil } from '#lab/drills/drill-store.ts';
import type { LineProcess } from '#lab/drills/line-process.ts';
import { startCollectorProcess, startLoadProcess } from '#lab/drills/measuring.ts';
import { type MainJobResult, judgeMainJob, printMainJob } from '#lab/drills/main-job-report.ts';
import { findDoubleRuns, startRunSampler } from '#lab/drills/run-sampler.ts';
import { tailSerial } from '#lab/drills/serial-tail.ts';
import { startTimeline, type Timeline } from '#lab/drills/timeline.ts';
import { labContext, plug } from '#lab/lab.ts';
import { readLabEvents } from '#lab/lab-event.ts';

export type MainJobInside = { lab: string; jsonFile: string | null; once: boolean; images: DrillImages };

/** Replication interval of the demonstration; the product's default is 60 s, and any from 1 s can be set. */
const intervalMs = 10_000;
const rowsPerSecond = 20;
const home = 'n1';

const say = (text: string) => void process.stdout.write(`${text}\n`);

/** Runs inside the client namespace; see main-job.ts. Returns the exit code. */
export async function measureMainJob(options: MainJobInside): Promise<number> {
  await using store = openDrillStore(options.lab);
  const collector = await startCollectorProcess(options.lab);
  const load = await prepare(options, store, collector);
  const sampler = startRunSampler(options.lab);
  try {
    const pulled = await pullPlug(options, store, load);
    const leftBehind = await bringBack(options, store, pulled.timeline);
    await delay(2_000); // some rows more from the survivor, so that what is read back spans both homes
    const { report: rows } = await load.ask<{ report: DbLoadReport }>('stop', 120_000);
    await waitHeard(collector, probeGuest.vmid, 2);
    const witness = await collector.ask<{ guests: WitnessReport[] }>('report', 10_000);
    const result = judgeMainJob({
      intervalMs,
      timeline: pulled.timeline,
      plugAtMs: pulled.plugAtMs,
      promoted: pulled.promoted,
      rows,
      witness: witness.guests,
      doubleSpans: findDoubleRuns(sampler.spans()).length,
      samplerGapMs: sampler.longestGapMs(),
      leftBehind,
    });
    finish(options, result);
    return result.brokenPromises.length === 0 ? 0 : 1;
  } finally {
    sampler.stop();
    load.kill();
    collector.kill();
  }
}

/** Guests created, copied to both other nodes, the database under load. */
async function prepare(options: MainJobInside, store: DrillStore, collector: LineProcess): Promise<LineProcess> {
  const { images, lab } = options;
  const others = labContext(lab)
    .nodes.map((node) => node.name)
    .filter((name) => name !== home);
  if (images.ehrDb === null) throw new Error('the main job needs the database image');
  say(`\nGuests: database ${databaseGuest.vmid} and witness ${probeGuest.vmid}, home ${home}`);
  await startWitness(lab, store, images.probe, home, intervalMs);
  await createDrillGuest(store, {
    vmid: databaseGuest.vmid,
    name: 'ehr-db',
    node: home,
    config: databaseConfig(images.ehrDb),
    imports: { disk0: images.ehrDb.rootImage },
    intervalMs,
  });
  await waitRunning(store, databaseGuest.vmid, 1, 120_000);
  say('  both run; waiting for the database to answer and for first copies on every other node');
  const load = await startLoadProcess(lab, rowsPerSecond);
  await waitUntil('the database to commit rows', 120_000, async () => {
    const { state: now } = await load.ask<{ state: DbLoadState }>('state', 10_000);
    return now.rowsCommitted > 0;
  });
  for (const vmid of [probeGuest.vmid, databaseGuest.vmid]) {
    const copies = await waitReplicated(store, vmid, 1, others, 300_000);
    for (const copy of copies) {
      say(
        `  guest ${vmid}: verified copy on ${copy.node}, newest cycle ${copy.lastCycle.kind}: ${copy.lastCycle.bytes} bytes in ${copy.lastCycle.tookMs} ms`,
      );
    }
  }
  await waitHeard(collector, probeGuest.vmid, 1);
  const sinceMs = Date.now();
  say(`  under load (${rowsPerSecond} numbered rows a second); waiting for a point that holds some of them on both copies`);
  await waitReplicated(store, databaseGuest.vmid, 1, others, 120_000, sinceMs);
  await waitReplicated(store, probeGuest.vmid, 1, others, 120_000, sinceMs);
  // Not right after a point: the loss is to be an ordinary one.
  await delay(intervalMs / 2);
  return load;
}

type Pulled = { plugAtMs: number; timeline: Timeline; promoted: { node: string; pointAtMs: number; cycleMs: number } };

async function pullPlug(options: MainJobInside, store: DrillStore, load: LineProcess): Promise<Pulled> {
  const { vmid } = databaseGuest;
  const copies = await listValues<ReplicaRecord>(store, `${prefixes.replicas}${vmid}/`);
  const cycleMs = Math.max(...copies.map((copy) => copy.lastCycle.tookMs));
  const { state: before } = await load.ask<{ state: DbLoadState }>('state', 10_000);
  const seenEvents = new Set((await listValues<HaEvent>(store, prefixes.haEvents)).map((event) => event.id));
  const serial = tailSerial(options.lab, vmid);
  say(`\n${before.rowsCommitted} rows committed. Pulling the plug on ${home}:`);
  const cut = await plug(options.lab, home, 'off');
  if (cut === null) throw new Error(`${home} had no power`);
  const plugAtMs = cut.atMs;
  const timeline = startTimeline(plugAtMs, say);
  timeline.note('plug', plugAtMs, `plug pulled on ${home}`, 'lab');
  await waitUntil('the database to commit rows again on another node', 120_000, async () => {
    for (const { node, line, atMs } of serial.read()) noteSerial(timeline, node, line, atMs);
    await noteRecords(store, timeline, seenEvents, plugAtMs);
    const { state: now } = await load.ask<{ state: DbLoadState }>('state', 10_000);
    const outage = now.outages.at(-1);
    // The newest heartbeat in the store is the lost node's last one: nobody can write it any more.
    if (typeof outage?.answeringAtMs === 'number')
      timeline.note('answering', outage.answeringAtMs, 'database answered a query again', 'client');
    if (typeof outage?.committingAtMs === 'number')
      timeline.note('committing', outage.committingAtMs, 'first row committed again', 'client');
    return timeline.at('committing') !== null && timeline.at('qemu') !== null;
  });
  const status = await readValue<HaStatus>(store, keys.haStatus(vmid));
  if (status === null || status.promoted === null) throw new Error(`guest ${vmid} was not started from a copy`);
  return { plugAtMs, timeline, promoted: { node: status.node, pointAtMs: status.promoted.pointAtMs, cycleMs } };
}

function noteSerial(timeline: Timeline, node: string, line: string, atMs: number): void {
  if (node === home) return;
  const mark = /^holdfast-guest: (.*)$/.exec(line)?.[1];
  if (mark === undefined) return;
  const key = mark.replace(/^[\d.]+ m?s: /, '');
  timeline.note(`serial ${key}`, atMs, `guest on ${node}: ${key}`, 'serial port');
}

async function noteRecords(store: DrillStore, timeline: Timeline, seen: Set<string>, plugAtMs: number): Promise<void> {
  const heartbeat = await readValue<Heartbeat>(store, keys.nodeHeartbeat(home));
  const events = await listValues<HaEvent>(store, prefixes.haEvents);
  for (const event of events.filter((entry) => !seen.has(entry.id) && entry.atMs >= plugAtMs)) {
    if (event.kind === 'claimed' && heartbeat !== null) {
      timeline.note('heartbeat', heartbeat.sentAtMs, `last heartbeat of ${home} (number ${heartbeat.seq})`, 'record');
    }
    timeline.note(event.id, event.atMs, `${event.kind}: ${event.text}`, 'record');
  }
  for (const vmid of [databaseGuest.vmid, probeGuest.vmid]) {
    const status = await readValue<HaStatus>(store, keys.haStatus(vmid));
    if (status === null || status.node === home || status.qemuStartedAtMs === null) continue;
    const key = vmid === databaseGuest.vmid ? 'qemu' : 'qemu-witness';
    timeline.note(key, status.qemuStartedAtMs, `QEMU of guest ${vmid} started on ${status.node}`, 'agent');
  }
}

async function bringBack(options: MainJobInside, store: DrillStore, timeline: Timeline): Promise<LeftBehind> {
  const { vmid } = databaseGuest;
  say(`\nPowering ${home} back on:`);
  await plug(options.lab, home, 'on');
  const permit = await waitUntil(`${home} to hold a permit again`, 90_000, async () => {
    const now = await readValue<Permit>(store, keys.nodePermit(home));
    return now?.state === 'granted' ? now : null;
  });
  const on = readLabEvents(options.lab).findLast((event) => event.event === 'power-on' && event.node === home);
  if (on !== undefined) timeline.note('power', on.atMs, `power back on ${home}`, 'lab');
  timeline.note(
    'rejoined',
    permit.state === 'granted' ? permit.grantedAtMs : 0,
    `${home} rejoined under epoch ${permit.epoch}`,
    'record',
  );
  const record = await readValue<GuestRecord>(store, keys.guest(vmid));
  const generation = record?.generation ?? 2;
  const [copy] = await waitReplicated(store, vmid, generation, [home], 180_000);
  await waitReplicated(store, probeGuest.vmid, generation, [home], 180_000);
  const leftBehind = await waitTail(store, vmid);
  const size = `${leftBehind.sizeBytes ?? '?'} bytes that differ from the promoted point`;
  timeline.note('tail', copy?.appliedAtMs ?? 0, `kept on ${home}: ${leftBehind.name}, ${size}`, 'record');
  timeline.note(
    'reversed',
    copy?.appliedAtMs ?? 0,
    `replication runs ${record?.home} to ${home}: generation ${generation} applied`,
    'record',
  );
  return leftBehind;
}

/** The tail that the returned node kept, once its size is measured. */
async function waitTail(store: DrillStore, vmid: number): Promise<LeftBehind> {
  return waitUntil(`${home} to name and measure the tail of guest ${vmid}`, 120_000, async () => {
    const copy = await readValue<ReplicaRecord>(store, keys.replica(vmid, home));
    const tail = copy?.leftBehind.at(-1);
    return tail !== undefined && tail.sizeBytes !== null ? tail : null;
  });
}

function finish(options: MainJobInside, result: MainJobResult): void {
  if (options.jsonFile !== null) writeFileSync(options.jsonFile, `${JSON.stringify(result, null, 2)}\n`);
  printMainJob(result, say);
  if (options.once) return;
  say(
    [
      '',
      'The lab stays up (it ends by itself after 12 hours). Look around:',
      '  bin/holdfast status',
      '  bin/holdfast ha events',
      '  bin/holdfast replication tails',
      `  bin/holdfast lab plug n2 off        (and on again)`,
      '  bin/holdfast lab down               takes everything away',
    ].join('\n'),
  );
}
