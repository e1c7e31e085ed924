import { prefixes, keys } from '#core/ha/keys.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { HaResource, NodeInfo } from '#core/ha/records.ts';
import { listValues, readValue } from '#lab/drills/drill-store.ts';
import { createJudge } from '#lab/drills/faults/scene.ts';
import { createBlank, removeGuest } from '#lab/drills/manager/small-guests.ts';
import { mustOperate, operate, type SceneResult, type Stage, waitRunsOn } from '#lab/drills/manager/stage.ts';
import { waitServing } from '#lab/drills/node-waits.ts';

const big = [
  { vmid: 110, name: 'big-a', node: 'n1', want: 'started' },
  { vmid: 111, name: 'big-b', node: 'n2', want: 'started' },
  { vmid: 112, name: 'big-c', node: 'n3', want: 'stopped' },
] as const;
const candidate = big[2];
/** The share of a node's memory that each of them has: no node holds two of them. */
const share = 0.6;

/** Three nodes, three guests that each fill most of one: with the third there would be no room after a loss. */
export async function refuseTheOneTooMany(stage: Stage): Promise<SceneResult> {
  const judge = createJudge();
  await waitServing(stage.store, stage.nodes);
  const info = await readValue<NodeInfo>(stage.store, keys.nodeInfo('n1'));
  const memoryMb = Math.floor((info?.memoryMb ?? 0) * share);
  await Promise.all(big.map((guest) => createBlank(stage, guest, memoryMb)));
  for (const { vmid, node } of big.slice(0, 2)) await waitRunsOn(stage, vmid, `on ${node}`, (now) => now === node);

  const id = String(candidate.vmid);
  const before = await snapshot(stage);
  const start = await operate(stage, ['guest', 'start', id]);
  const memory = ['--memory', `${memoryMb}M`, '--disk', 'disk0=1M'];
  const create = await operate(stage, ['guest', 'create', '--name', 'big-d', '--node', 'n3', ...memory, '--start']);
  for (const [what, { code, text }] of [
    ['guest start', start],
    ['guest create --start', create],
  ] as const) {
    judge.must(code !== 0 && /after the loss of n\d, guest \d+ would have no place/.test(text), `${what} said: ${text.trim()}`);
  }
  judge.must((await snapshot(stage)) === before, 'a refused command changed the record');

  const forced = await mustOperate(stage, ['guest', 'start', id, '--force']);
  const place = await waitRunsOn(stage, candidate.vmid, 'after --force', () => true);
  judge.must(place.node === candidate.node, `it was forced to start and runs on ${place.node}`);
  await Promise.all(big.map(({ vmid }) => removeGuest(stage, vmid)));
  return {
    scene: 'admission',
    promise: 'a guest that would leave another one without a place after a loss is refused, nothing changes; --force starts it',
    figures: {
      'memory of each, of a node': `${memoryMb} of ${info?.memoryMb} MiB`,
      'guest start': start.text.trim(),
      'guest create --start': create.text.trim(),
      'forced start took ms': forced.tookMs,
    },
    broken: judge.broken,
  };
}

/** What is wanted of which guest, as text. */
async function snapshot(stage: Stage): Promise<string> {
  const guests = await listValues<GuestRecord>(stage.store, prefixes.guests);
  const resources = await listValues<HaResource>(stage.store, prefixes.haResources);
  return JSON.stringify([guests.map((guest) => [guest.vmid, guest.generation, guest.order?.kind]), resources]);
}
