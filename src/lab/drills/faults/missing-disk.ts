import { renameSync } from 'node:fs';
import { join } from 'node:path';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys } from '#core/ha/keys.ts';
import type { GuestState } from '#core/ha/manager/memory.ts';
import type { HaResource, HaStatus, WantedState } from '#core/ha/records.ts';
import { probeGuest } from '#lab/drills/drill-guests.ts';
import { changeValue, readValue, waitUntil } from '#lab/drills/drill-store.ts';
import { createJudge, type FaultResult, type Scene, settle, spansSince } from '#lab/drills/faults/scene.ts';
import { listLayers } from '#lab/drills/faults/copy-folder.ts';

/**
 * A stopped guest's disk file is gone: the start is refused naming it, nothing else changes, and the guest counts as failed, which only an
 * operator takes back. It starts when the file is there again and it was disabled once.
 */
export async function hideDisk(scene: Scene): Promise<FaultResult> {
  const judge = createJudge();
  const { vmid } = probeGuest;
  const before = await settle(scene);
  await want(scene, 'stopped');
  await waitStatus(scene, 'the guest to stop', (status) => status.state === 'stopped');
  const { folder, layers } = listLayers(scene.lab, before.home, vmid, 'disk0');
  const file = layers.at(0) ?? '';
  renameSync(join(folder, file), join(folder, `${file}.away`));
  const hiddenAtMs = Date.now();
  let refusal = '';
  try {
    await want(scene, 'started');
    refusal = (await waitStatus(scene, 'the start to be refused', (status) => status.state === 'failed')).because;
    judge.must(refusal.includes(file) && refusal.includes(String(vmid)), `the refusal does not name guest and file: ${refusal}`);
    judge.must(spansSince(scene, hiddenAtMs).length === 0, 'QEMU ran without its disk');
  } finally {
    renameSync(join(folder, `${file}.away`), join(folder, file));
  }
  await waitEntry(scene, 'failed');
  await want(scene, 'disabled');
  await waitEntry(scene, 'inactive');
  await want(scene, 'started');
  const running = await waitStatus(scene, 'the guest to run again', (status) => status.state === 'running');
  judge.must(running.generation === before.generation, `the generation went from ${before.generation} to ${running.generation}`);
  return {
    fault: 'missing-disk',
    promise:
      'a guest whose disk is missing: refused naming what is missing, nothing changed; started when it is back and was disabled once',
    figures: { refusal },
    broken: judge.broken,
  };
}

async function want(scene: Scene, state: WantedState): Promise<void> {
  const { vmid } = probeGuest;
  await changeValue<HaResource>(scene.store, keys.haResource(vmid), (now) => ({
    ...(now ?? { vmid, maxDataAgeMs: null }),
    want: state,
  }));
}

/** Waits until the manager has brought the guest into that state. */
async function waitEntry(scene: Scene, kind: GuestState['kind']): Promise<void> {
  await waitUntil(`the guest to be ${kind}`, 30_000, async () => {
    const record = await readValue<GuestRecord>(scene.store, keys.guest(probeGuest.vmid));
    return record?.ha?.state.kind === kind ? record : null;
  });
}

function waitStatus(scene: Scene, what: string, wanted: (status: HaStatus) => boolean): Promise<HaStatus> {
  return waitUntil(what, 90_000, async () => {
    const status = await readValue<HaStatus>(scene.store, keys.haStatus(probeGuest.vmid));
    return status !== null && wanted(status) ? status : null;
  });
}
