import { linkSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { keys } from '#core/ha/keys.ts';
import type { GuestEntry } from '#core/ha/manager/memory.ts';
import type { HaStatus } from '#core/ha/records.ts';
import { probeConfig } from '#lab/drills/drill-guests.ts';
import { readValue, waitUntil } from '#lab/drills/drill-store.ts';
import { createJudge, delay } from '#lab/drills/faults/scene.ts';
import { createProbe, removeGuest } from '#lab/drills/manager/small-guests.ts';
import {
  mustOperate,
  operate,
  readGuest,
  type SceneResult,
  type Stage,
  waitRecord,
  waitRunsOn,
} from '#lab/drills/manager/stage.ts';
import { waitServing } from '#lab/drills/node-waits.ts';
import { labContext } from '#lab/lab.ts';

const guest = { vmid: 104, name: 'restarted', node: 'n1', want: 'stopped' } as const;
/** Its own kernel, under a name that no other guest uses: on each node it can be taken away and given back. */
const kernel = 'restart-kernel';
/** Nobody clears a failure by himself for so long. */
const waitsMs = 3_000;

/** The kernel of a guest is missing on its node, later on every node. */
export async function failToStart(stage: Stage): Promise<SceneResult> {
  const judge = createJudge();
  const id = String(guest.vmid);
  await waitServing(stage.store, stage.nodes);
  giveKernel(stage, stage.nodes);
  await createProbe(stage, guest, (config) => ({ ...config, boot: config.boot && { ...config.boot, kernel } }));

  takeKernel(stage, [guest.node]);
  const askedAtMs = Date.now();
  await mustOperate(stage, ['guest', 'start', id, '--no-wait']);
  const first = await waitFailed(stage, ({ failedNodes }) => failedNodes.length > 0);
  const place = await waitRunsOn(stage, guest.vmid, 'on another node', (node) => node !== guest.node);
  const relocatedMs = Date.now() - askedAtMs;
  const remembered = first.entry.failedNodes.join(', ');
  judge.must(remembered === guest.node, `it remembers ${remembered} as the nodes that failed`);
  judge.must(first.said.includes(kernel), `the failure does not name what is missing: ${first.said}`);
  judge.must(first.said.includes('try 2 of 2'), `it was not tried twice on ${guest.node}: ${first.said}`);

  // Its system is hardly up yet and would not hear the power button.
  await mustOperate(stage, ['ha', 'stop', id, '--timeout', '0']);
  await waitRecord(stage, guest.vmid, 'to be at rest', ({ ha }) => ha?.state.kind === 'inactive');
  takeKernel(stage, stage.nodes);
  const startedAtMs = Date.now();
  await mustOperate(stage, ['guest', 'start', id, '--no-wait']);
  const { entry, said } = await waitFailed(stage, ({ state }) => state.kind === 'failed');
  const failedMs = Date.now() - startedAtMs;
  judge.must(new Set(entry.failedNodes).size === 2, `it was tried on ${entry.failedNodes.join(', ')}: not on two nodes`);
  const shown = await operate(stage, ['ha', 'show', id]);
  judge.must(shown.text.includes(kernel), `holdfast ha show does not name what is missing:\n${shown.text}`);

  giveKernel(stage, stage.nodes);
  await delay(waitsMs);
  const still = (await readGuest(stage, guest.vmid)).ha?.state.kind;
  judge.must(still === 'failed', `nobody cleared the failure, and it is ${still}`);
  await mustOperate(stage, ['ha', 'set', id, '--want', 'disabled']);
  await waitRecord(stage, guest.vmid, 'to be cleared', ({ ha }) => ha?.state.kind === 'inactive');
  await mustOperate(stage, ['guest', 'start', id]);
  await waitRunsOn(stage, guest.vmid, 'once its failure is cleared', () => true);
  await removeGuest(stage, guest.vmid);
  return {
    scene: 'restart',
    promise:
      'a start that fails is tried again here, then on another node; failing there too ends in failed, which a person clears',
    figures: {
      [`kernel missing on ${guest.node}`]: first.said,
      'then ran on': place.node,
      'from the wish to running there ms': relocatedMs,
      'kernel missing everywhere, tried on': entry.failedNodes.join(', '),
      'from the wish to failed ms': failedMs,
      'last words': said,
    },
    broken: judge.broken,
  };
}

/** Waits for an entry that `isReached` accepts; `said`: the last failure that an agent told until then. */
function waitFailed(stage: Stage, isReached: (entry: GuestEntry) => boolean): Promise<{ entry: GuestEntry; said: string }> {
  let said = '';
  return waitUntil(`guest ${guest.vmid} to have failed`, 120_000, async () => {
    const status = await readValue<HaStatus>(stage.store, keys.haStatus(guest.vmid));
    if (status?.state === 'failed') said = status.because;
    const { ha } = await readGuest(stage, guest.vmid);
    return ha !== undefined && isReached(ha) ? { entry: ha, said } : null;
  });
}

function giveKernel(stage: Stage, nodes: string[]): void {
  takeKernel(stage, nodes);
  const shared = probeConfig(stage.images.probe, guest.vmid, '').boot?.kernel ?? '';
  for (const folder of listAssets(stage, nodes)) linkSync(join(folder, shared), join(folder, kernel));
}

function takeKernel(stage: Stage, nodes: string[]): void {
  for (const folder of listAssets(stage, nodes)) rmSync(join(folder, kernel), { force: true });
}

function listAssets(stage: Stage, nodes: string[]): string[] {
  const own = labContext(stage.lab).nodes.filter((node) => nodes.includes(node.name));
  return own.map((node) => join(node.folders.data, 'assets'));
}
