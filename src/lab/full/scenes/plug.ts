import { setTimeout as delay } from 'node:timers/promises';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaEvent, HaStatus, Heartbeat, Permit } from '#core/ha/records.ts';
import type { LeftBehind, ReplicaRecord } from '#core/replica/records.ts';
import { listValues, readValue, waitUntil } from '#lab/drills/drill-store.ts';
import { startTimeline, type TimelineEntry } from '#lab/drills/timeline.ts';
import { fullLimits } from '../full-limits.ts';
import { findHome, readWitness, type Stage, tinyGuest, waitCopies, waitServing, waitSpeaking } from '../stage.ts';

export type PlugResult = {
  lost: string;
  survivor: string;
  plugToStartMs: number;
  plugToHeardMs: number;
  dataAgeMs: number;
  /** Longest age that is promised: one interval and the cycle that was under way. */
  dataAgeBoundMs: number;
  lostCounters: number;
  lostMs: number;
  timeline: TimelineEntry[];
  tail: LeftBehind;
  rejoinMs: number;
  broken: string[];
};

/** The plug is pulled on the guest's machine; the guest comes back elsewhere; the machine returns and keeps what was never copied. */
export async function playPlug(stage: Stage): Promise<PlugResult> {
  const { room, store, collector, say } = stage;
  const { vmid } = tinyGuest;
  const { node: lost, generation } = await findHome(store);
  const others = room.machines.map(({ name }) => name).filter((name) => name !== lost);
  say(`waiting for verified copies of guest ${vmid} on ${others.join(' and ')}`);
  const copies = await waitCopies(store, vmid, generation, others);
  await waitCopies(store, vmid, generation, others, Date.now());
  const cycleMs = Math.max(...copies.map((copy) => copy.lastCycle.tookMs));
  // Not right after a point: the loss is to be an ordinary one.
  await delay(tinyGuest.intervalMs / 2);
  const before = await readValue<Permit>(store, keys.nodePermit(lost));
  say(`pulling the plug on ${lost}:`);
  const { atMs } = await room.byName(lost).pull();
  const timeline = startTimeline(atMs, say);
  timeline.note('plug', atMs, `plug pulled on ${lost}`, 'room');
  const look = async (): Promise<HaStatus | null> => {
    await noteRecords(stage, timeline, lost, atMs);
    const now = await readValue<HaStatus>(store, keys.haStatus(vmid));
    return now !== null && now.node !== lost && now.qemuStartedAtMs !== null ? now : null;
  };
  // Whoever wrote a record says when; looking oftener would only slow them down.
  const status = await waitUntil(`guest ${vmid} to run elsewhere`, fullLimits.guestMs, look, fullLimits.lookMs);
  timeline.note('qemu', status.qemuStartedAtMs ?? 0, `QEMU of guest ${vmid} started on ${status.node}`, 'agent');
  const run = await waitSpeaking(collector, generation + 1);
  timeline.note('heard', run.firstAtMs, `guest ${vmid} heard from ${status.node}, counter ${run.recoveredCounter}`, 'collector');
  const back = await bringBack(stage, lost, before?.epoch ?? 0, status.generation);
  timeline.note('rejoined', back.atMs, `${lost} serves again, the tail ${back.tail.name} is kept`, 'record');
  const witness = await readWitness(collector);
  const takeover = witness?.takeovers.at(-1);
  const result = {
    lost,
    survivor: status.node,
    plugToStartMs: Math.round((status.qemuStartedAtMs ?? 0) - atMs),
    plugToHeardMs: Math.round(run.firstAtMs - atMs),
    dataAgeMs: Math.round(atMs - (status.promoted?.pointAtMs ?? 0)),
    dataAgeBoundMs: tinyGuest.intervalMs + cycleMs,
    lostCounters: takeover?.lostCounters ?? 0,
    lostMs: Math.round(takeover?.lostMs ?? 0),
    timeline: timeline.entries(),
    tail: back.tail,
    rejoinMs: back.tookMs,
    broken: [] as string[],
  };
  if (witness === null || witness.doubleRuns.length > 0) result.broken.push('the guest was heard from two places at once');
  if (run.consistent !== true) result.broken.push(`the guest's disks were not one point: ${run.detail}`);
  if (result.dataAgeMs > result.dataAgeBoundMs)
    result.broken.push(`the copy was ${result.dataAgeMs} ms old; promised: ${result.dataAgeBoundMs} ms (interval and cycle)`);
  return result;
}

async function noteRecords(
  { store }: Stage,
  timeline: ReturnType<typeof startTimeline>,
  lost: string,
  plugAtMs: number,
): Promise<void> {
  const events = await listValues<HaEvent>(store, prefixes.haEvents);
  for (const event of events.filter(({ atMs }) => atMs >= plugAtMs)) {
    if (event.kind === 'claimed') {
      const last = await readValue<Heartbeat>(store, keys.nodeHeartbeat(lost));
      if (last !== null) timeline.note('heartbeat', last.sentAtMs, `last heartbeat of ${lost} (number ${last.seq})`, 'record');
    }
    timeline.note(event.id, event.atMs, `${event.kind}: ${event.text}`, 'record');
  }
}

/** Power comes back: the machine boots, imports its pool, takes a new permit and names what it kept. */
async function bringBack(stage: Stage, lost: string, epoch: number, generation: number) {
  const { room, store, say } = stage;
  const onMs = performance.now();
  say(`power back on ${lost}`);
  const machine = room.byName(lost);
  await machine.on();
  await machine.waitForLogin();
  await waitServing(store, lost, epoch);
  const tookMs = Math.round(performance.now() - onMs);
  say(`${lost} serves again ${(tookMs / 1000).toFixed(1)} s after its power came back`);
  const look = async (): Promise<LeftBehind | null> => {
    const copy = await readValue<ReplicaRecord>(store, keys.replica(tinyGuest.vmid, lost));
    const found = copy?.leftBehind.at(-1);
    return found !== undefined && found.sizeBytes !== null ? found : null;
  };
  const tail = await waitUntil(`${lost} to name and measure its tail`, fullLimits.replicatedMs, look, fullLimits.lookMs);
  await waitCopies(store, tinyGuest.vmid, generation, [lost]);
  say(`${lost} keeps ${tail.name}, ${tail.sizeBytes} bytes that differ, and is a target again`);
  return { atMs: Date.now(), tookMs, tail };
}
