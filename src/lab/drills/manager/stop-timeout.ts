import { keys } from '#core/ha/keys.ts';
import type { HaResource } from '#core/ha/records.ts';
import { readValue } from '#lab/drills/drill-store.ts';
import { createJudge, delay } from '#lab/drills/faults/scene.ts';
import { createBlank, removeGuest } from '#lab/drills/manager/small-guests.ts';
import { listEventsSince, mustOperate, type SceneResult, type Stage, waitRecord, waitRunsOn } from '#lab/drills/manager/stage.ts';
import { waitServing } from '#lab/drills/node-waits.ts';

const deaf = { vmid: 113, name: 'deaf', node: 'n1', want: 'started' } as const;
const memoryMb = 32;
const timeoutMs = 5_000;
/** A round of the manager, one of the agent, the kill, and a busy machine. */
const slackMs = 4_000;

/** A guest that does not answer the power button is stopped with a timeout, and without any patience. */
export async function stopTheDeaf(stage: Stage): Promise<SceneResult> {
  const judge = createJudge();
  await waitServing(stage.store, stage.nodes);
  await createBlank(stage, deaf, memoryMb);
  const patient = await stopAfter(stage, `${timeoutMs / 1_000}s`);
  judge.must(
    patient.goneMs >= timeoutMs,
    `it was gone ${patient.goneMs} ms after the order: it was not left its ${timeoutMs} ms`,
  );
  judge.must(patient.killedMs <= timeoutMs + slackMs, `it ended only ${patient.killedMs} ms after the order`);
  await mustOperate(stage, ['guest', 'start', String(deaf.vmid)]);
  const atOnce = await stopAfter(stage, '0');
  judge.must(atOnce.killedMs <= slackMs, `with --timeout 0 it ended only ${atOnce.killedMs} ms after the order`);
  for (const { want } of [patient, atOnce]) judge.must(want === 'stopped', `it is wanted ${want} after the stop`);
  await removeGuest(stage, deaf.vmid);
  return {
    scene: 'stop',
    promise: 'a guest that ignores the power button is killed after the timeout, and at once with --timeout 0',
    figures: { 'timeout ms': timeoutMs, 'killed after ms': patient.killedMs, '--timeout 0: killed after ms': atOnce.killedMs },
    broken: judge.broken,
  };
}

/** From the manager's order: `killedMs` until the kernel showed its process last, `goneMs` until it first showed none. */
async function stopAfter(stage: Stage, timeout: string): Promise<{ killedMs: number; goneMs: number; want: string }> {
  const { vmid } = deaf;
  await waitRunsOn(stage, vmid, 'before it is stopped', () => true);
  await delay(500); // its firmware is past its first steps
  const askedAtMs = Date.now();
  await mustOperate(stage, ['ha', 'stop', String(vmid), '--timeout', timeout]);
  await waitRecord(stage, vmid, 'to be at rest', (record) => record.ha?.state.kind === 'inactive');
  const span = stage.sampler.spans().findLast((entry) => entry.vmid === vmid);
  // Once it rests the order is written again without the timeout, so the record does not tell any more when it was first given.
  const ordered = (await listEventsSince(stage, askedAtMs)).find((event) => event.kind === 'ordered' && event.vmid === vmid);
  const resource = await readValue<HaResource>(stage.store, keys.haResource(vmid));
  const sinceOrder = (atMs: number | null | undefined): number =>
    Math.round((atMs ?? Number.NaN) - (ordered?.atMs ?? Number.NaN));
  return { killedMs: sinceOrder(span?.untilMs), goneMs: sinceOrder(span?.goneMs), want: resource?.want ?? 'nothing' };
}
