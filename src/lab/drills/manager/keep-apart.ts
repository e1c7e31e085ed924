import { AppError } from '#base/error.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaEvent } from '#core/ha/records.ts';
import type { ReplicaRecord } from '#core/replica/records.ts';
import { waitReplicated } from '#lab/drills/drill-guests.ts';
import { readValue, waitUntil } from '#lab/drills/drill-store.ts';
import { createJudge, delay, mustNeverDouble } from '#lab/drills/faults/scene.ts';
import { createProbe } from '#lab/drills/manager/small-guests.ts';
import { listEventsSince, mustOperate, readGuest, type SceneResult, type Stage, waitRunsOn } from '#lab/drills/manager/stage.ts';
import { mustHarmNobody, whereRan } from '#lab/drills/manager/watch.ts';
import { waitServing } from '#lab/drills/node-waits.ts';
import { arrangeRole } from '#lab/drills/roles.ts';
import { plug, startService, stopService } from '#lab/lab.ts';

const mover = { vmid: 102, name: 'apart-a', node: 'n1', want: 'started' } as const;
const stayer = { vmid: 103, name: 'apart-b', node: 'n2', want: 'started' } as const;
const refuge = 'n3';
/** How long it is watched that nobody breaks the rule while the one right node is out of reach. */
const temptationMs = 4_000;

/** The node of one of two guests that are kept apart is lost, and the only right node for it cannot take it yet. */
export async function recoverApart(stage: Stage): Promise<SceneResult> {
  const judge = createJudge();
  await waitServing(stage.store, stage.nodes);
  await prepare(stage);
  const [near, far] = await makeCopiesUneven(stage);
  const sinceMs = Date.now();
  await stopService(stage.lab, refuge, 'agent');
  const cut = await plug(stage.lab, mover.node, 'off');
  if (cut === null) throw new AppError('conflict', `${mover.node} had no power`);
  const reason = await waitUntil(`guest ${mover.vmid} to be without a place`, 60_000, () => findReason(stage, cut.atMs));
  const waitingSinceMs = Date.now();
  judge.must(reason.text.includes(`${stayer.node}: the rules forbid it`), `the reason does not name the rule: ${reason.text}`);
  judge.must(reason.text.includes(`${refuge}: has an agent that does not answer`), `nor ${refuge}: ${reason.text}`);
  await delay(temptationMs);
  const { ha } = await readGuest(stage, mover.vmid);
  judge.must(ha?.state.kind === 'awaiting-recovery', `meanwhile it is ${ha?.state.kind}: ${ha?.because}`);
  const broke = stage.sampler.spans().find((span) => span.vmid === mover.vmid && span.fromMs > cut.atMs);
  judge.must(broke === undefined, `it was started meanwhile: ${JSON.stringify(broke)}`);

  await startService(stage.lab, refuge, 'agent');
  const openAtMs = Date.now();
  const place = await waitRunsOn(stage, mover.vmid, 'again', (node) => node !== mover.node);
  judge.must(place.node === refuge, `it runs on ${place.node}, where guest ${stayer.vmid} is`);
  const startedAtMs = place.status.qemuStartedAtMs ?? Number.NaN;
  await plug(stage.lab, mover.node, 'on');
  await waitServing(stage.store, stage.nodes);
  judge.must(near > far, `the copy on ${stayer.node} (point ${near}) was no fresher than the one on ${refuge} (point ${far})`);
  judge.must((await readGuest(stage, stayer.vmid)).home === stayer.node, `guest ${stayer.vmid} was moved`);
  await mustNeverDouble(stage, judge);
  await mustHarmNobody(stage, sinceMs, judge, [mover.node]);
  await mustOperate(stage, ['ha', 'rule', 'remove', 'drill-apart']);
  return {
    scene: 'keep-apart',
    promise: 'two guests kept apart, a node lost: the guest waits, with the reason, for the node where the rule lets it run',
    figures: {
      'fresher copy that was not used': `${stayer.node}, point ${near} (on ${refuge}: ${far})`,
      'reason while it waited': reason.text,
      'named after ms': reason.atMs - cut.atMs,
      'waited for its node ms': openAtMs - waitingSinceMs,
      'QEMU after the node could take it ms': Math.round(startedAtMs - openAtMs),
      'ran on': whereRan(stage, mover.vmid, sinceMs),
    },
    broken: judge.broken,
  };
}

async function prepare(stage: Stage): Promise<void> {
  await Promise.all([createProbe(stage, mover), createProbe(stage, stayer)]);
  for (const { vmid, node } of [mover, stayer]) await waitRunsOn(stage, vmid, `on ${node}`, (now) => now === node);
  await waitReplicated(stage.store, mover.vmid, 1, [stayer.node, refuge], 120_000);
  await mustOperate(stage, ['ha', 'rule', 'keep-apart', 'drill-apart', '--guests', `${mover.vmid},${stayer.vmid}`]);
  // The lead is not to be lost with one of the two nodes that fail here: that is another drill.
  await arrangeRole(stage.lab, stage.store, mover.node, 'plain');
}

/** Sends one point to the node where the guest must not go; returns the copies' points there and where it may go. */
async function makeCopiesUneven(stage: Stage): Promise<[number, number]> {
  await mustOperate(stage, ['replication', 'set', String(mover.vmid), '--off']);
  await mustOperate(stage, ['replication', 'sync', String(mover.vmid), '--to', stayer.node]);
  const seqOn = async (node: string) =>
    (await readValue<ReplicaRecord>(stage.store, keys.replica(mover.vmid, node)))?.point.seq ?? 0;
  return [await seqOn(stayer.node), await seqOn(refuge)];
}

async function findReason(stage: Stage, sinceMs: number): Promise<HaEvent | undefined> {
  const events = await listEventsSince(stage, sinceMs);
  return events.find((event) => event.kind === 'deferred' && event.vmid === mover.vmid);
}
