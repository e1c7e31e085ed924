import type { GuestConfig } from '#core/guest/guest-record.ts';
import type { WantedState } from '#core/ha/records.ts';
import { createDrillGuest, probeConfig } from '#lab/drills/drill-guests.ts';
import { mustOperate, readGuest, type Stage, waitRecord } from '#lab/drills/manager/stage.ts';
import { labContext } from '#lab/lab.ts';

const intervalMs = 2_000;

export type SmallGuest = { vmid: number; name: string; node: string; want: WantedState };

/** One more probe guest; `change` may spoil its configuration. */
export async function createProbe(
  stage: Stage,
  guest: SmallGuest,
  change: (config: GuestConfig) => GuestConfig = (config) => config,
): Promise<void> {
  const config = change(probeConfig(stage.images.probe, guest.vmid, labContext(stage.lab).clientAddress));
  await createDrillGuest(stage.store, { ...guest, config, imports: {}, intervalMs });
}

/** A guest without a system: its firmware finds nothing to boot, runs, and has no ear for the power button. */
export async function createBlank(stage: Stage, guest: SmallGuest, memoryMb: number): Promise<void> {
  const disks = [{ name: 'disk0', sizeBytes: 1 << 20 }];
  const config: GuestConfig = { cores: 1, memoryMb, disks, nics: [], boot: null };
  await createDrillGuest(stage.store, { ...guest, config, imports: {}, intervalMs });
}

/** Stops the guest at once, wherever it runs, and removes it. */
export async function removeGuest(stage: Stage, vmid: number): Promise<void> {
  const { ha } = await readGuest(stage, vmid);
  if (ha?.state.kind !== 'inactive') await mustOperate(stage, ['ha', 'stop', String(vmid), '--timeout', '0']);
  await waitRecord(stage, vmid, 'to be at rest', (record) => record.ha?.state.kind === 'inactive');
  await mustOperate(stage, ['guest', 'delete', String(vmid), '--yes']);
}
