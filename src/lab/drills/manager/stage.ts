import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { AppError } from '#base/error.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaEvent, HaStatus } from '#core/ha/records.ts';
import { type DrillImages } from '#lab/drills/drill-lab.ts';
import { databaseGuest, probeGuest, waitHeard, waitReplicated } from '#lab/drills/drill-guests.ts';
import { listValues, readValue, waitUntil } from '#lab/drills/drill-store.ts';
import type { Scene } from '#lab/drills/faults/scene.ts';
import type { LineProcess } from '#lab/drills/line-process.ts';
import { waitServing } from '#lab/drills/node-waits.ts';

/**
 * What the manager's scenes share: one lab, the witness that speaks in all of them, the database while scenes need it, and the command line
 * that an operator has.
 */
export type Stage = Scene & { images: DrillImages; load: LineProcess | null };

export type Figures = Record<string, number | string>;

/** What one scene showed. `figures` are observed; `broken` lists what was promised and did not hold. */
export type SceneResult = { scene: string; promise: string; figures: Figures; broken: string[] };

const holdfast = fileURLToPath(new URL('../../../../bin/holdfast', import.meta.url));

export type Operated = { code: number; text: string; tookMs: number };

/** Runs `holdfast ...` as an operator does. Its exit code is the caller's to judge. */
export async function operate(stage: Stage, argv: string[], deadlineMs = 120_000, nice = 0): Promise<Operated> {
  const startedMs = performance.now();
  return new Promise((resolve, reject) => {
    execFile(
      'nice',
      ['-n', String(nice), holdfast, '--lab', stage.lab, ...argv],
      { timeout: deadlineMs },
      (error, stdout, stderr) => {
        const tookMs = Math.round(performance.now() - startedMs);
        if (error?.killed === true)
          reject(new AppError('timeout', `holdfast ${argv.join(' ')} took longer than ${deadlineMs} ms`));
        else
          resolve({ code: typeof error?.code === 'number' ? error.code : error === null ? 0 : 1, text: stdout + stderr, tookMs });
      },
    );
  });
}

/** As `operate`, and raises AppError conflict with its words when it was refused or failed. */
export async function mustOperate(stage: Stage, argv: string[], deadlineMs?: number): Promise<Operated> {
  const done = await operate(stage, argv, deadlineMs);
  if (done.code !== 0) throw new AppError('conflict', `holdfast ${argv.join(' ')} ended with ${done.code}: ${done.text.trim()}`);
  return done;
}

/** Where a guest lives now. */
export type Place = { node: string; generation: number; status: HaStatus };

/** Waits until the guest runs on a node that `isRight` accepts, as its home says itself. */
export function waitRunsOn(stage: Stage, vmid: number, where: string, isRight: (node: string) => boolean): Promise<Place> {
  return waitUntil(`guest ${vmid} to run ${where}`, 120_000, async () => {
    const record = await readGuest(stage, vmid);
    const status = await readValue<HaStatus>(stage.store, keys.haStatus(vmid));
    if (record.order?.kind !== 'run' || !isRight(record.home) || status?.state !== 'running') return null;
    const isCurrent = status.node === record.home && status.generation === record.generation;
    if (!isCurrent || status.nodeEpoch !== record.order.nodeEpoch) return null;
    return { node: record.home, generation: record.generation, status };
  });
}

export async function readGuest(stage: Stage, vmid: number): Promise<GuestRecord> {
  const record = await readValue<GuestRecord>(stage.store, keys.guest(vmid));
  if (record === null) throw new AppError('missing', `guest ${vmid} has no record`);
  return record;
}

/** Waits until a look at the guest's record finds what is described. */
export function waitRecord(
  stage: Stage,
  vmid: number,
  what: string,
  isRight: (record: GuestRecord) => boolean,
  deadlineMs = 60_000,
): Promise<GuestRecord> {
  return waitUntil(`guest ${vmid} ${what}`, deadlineMs, async () => {
    const record = await readGuest(stage, vmid);
    return isRight(record) ? record : null;
  });
}

/** Those of the guests whose home is this node. */
export async function listAtHome(stage: Stage, node: string, guests: readonly number[]): Promise<number[]> {
  const records = await listValues<GuestRecord>(stage.store, prefixes.guests);
  return records.filter((record) => record.home === node && guests.includes(record.vmid)).map((record) => record.vmid);
}

export async function listEventsSince(stage: Stage, sinceMs: number): Promise<HaEvent[]> {
  return (await listValues<HaEvent>(stage.store, prefixes.haEvents)).filter((event) => event.atMs >= sinceMs);
}

/** `guest`: whom the scene is about, the database while there is one, else the witness. `residents`: it and who else is at home there. */
export type Standing = { guest: number; home: string; others: string[]; residents: number[] };

/** Waits until every node serves, and witness and database run with a copy of what they run from on both other nodes. */
export async function settle(stage: Stage): Promise<Standing> {
  await waitServing(stage.store, stage.nodes);
  const vmids: number[] = stage.load === null ? [probeGuest.vmid] : [probeGuest.vmid, databaseGuest.vmid];
  const places = await Promise.all(vmids.map((vmid) => waitSettled(stage, vmid)));
  const [guest = 0, home = ''] = [vmids.at(-1), places.at(-1)?.node];
  return {
    guest,
    home,
    others: stage.nodes.filter((node) => node !== home),
    residents: vmids.filter((_, index) => places[index]?.node === home),
  };
}

async function waitSettled(stage: Stage, vmid: number): Promise<Place> {
  const place = await waitRunsOn(stage, vmid, 'before the scene begins', () => true);
  const others = stage.nodes.filter((node) => node !== place.node);
  await waitReplicated(stage.store, vmid, place.generation, others, 120_000);
  if (vmid === probeGuest.vmid) await waitHeard(stage.collector, vmid, place.generation);
  return place;
}
