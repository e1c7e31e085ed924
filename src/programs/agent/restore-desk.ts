import { createHash } from 'node:crypto';
import { formatSnapshot, type SnapshotId } from '#core/backup/names.ts';
import type { GuestConfig, GuestRecord } from '#core/guest/guest-record.ts';
import { macFromBytes, restoredConfig } from '#core/guest-backup/restored-guest.ts';
import type { RestoreOrder } from '#core/ha/requests.ts';
import type { Store } from '#ports/store.ts';
import { readTarget } from '#programs/agent/backup-targets.ts';
import type { NewGuest } from '#programs/agent/requests.ts';
import { beginRestoreOver, restoreOver, type RestoreOverParts } from '#programs/agent/restore-over.ts';
import { slowly, type TellProgress } from '#programs/agent/tell-progress.ts';
import { openBackup, type OpenBackup } from '#programs/guest-backup/restore-thread.ts';
import { readTargetAccess } from '#programs/guest-backup/target-access.ts';

export type RestoreParts = {
  tell: TellProgress;
  signal: AbortSignal;
  /** Makes disks and record of a new guest. */
  create: (guest: NewGuest) => Promise<string[]>;
  /** The name under which the disks of a guest that is restored over are kept; the same for a repeated request. */
  tail: string;
};

export type RestoredGuest = { snapshot: string; atSeconds: number; lines: string[] };

/** Restores of guests to this node. The caller sees to it that nothing else is done with the guest meanwhile. */
export type RestoreDesk = { restore(order: RestoreOrder, parts: RestoreParts): Promise<RestoredGuest> };

export function createRestoreDesk(desk: RestoreOverParts): RestoreDesk {
  async function make(order: RestoreOrder, backup: OpenBackup, create: RestoreParts['create']): Promise<string[]> {
    const { vmid, want } = order;
    const { guest } = backup;
    const config = newGuestConfig(order, backup);
    const fills = Object.fromEntries(config.disks.map(({ name }) => [name, (path: string) => backup.writeDisk(name, path)]));
    return await create({ vmid, name: order.name ?? guest.name, config, imports: {}, want, fills });
  }

  async function replace(
    order: RestoreOrder,
    backup: OpenBackup,
    begun: Awaited<ReturnType<typeof beginRestoreOver>>,
    tail: string,
  ): Promise<string[]> {
    const { vmid, bridge } = order;
    const { guest, snapshot } = backup;
    const present: GuestRecord = begun.record;
    const macOf = (card: number): string => present.config.nics[card]?.mac ?? freshMac(vmid, snapshot, card);
    return await restoreOver(desk, begun.claim, {
      vmid,
      tail,
      name: order.name ?? present.name,
      config: restoredConfig(guest.config, { bridge, macOf }),
      fromAtMs: guest.pointAtMs,
      write: (disk, place) => backup.writeInto(disk, place),
    });
  }

  return {
    async restore(order, parts) {
      const begun = order.over === true ? await beginRestoreOver(desk, order.vmid, parts.tail) : null;
      await using backup = await openOrdered(desk.store, order, parts);
      const { snapshot } = backup;
      const made = begun === null ? await make(order, backup, parts.create) : await replace(order, backup, begun, parts.tail);
      const text = formatSnapshot(snapshot);
      return { snapshot: text, atSeconds: snapshot.atSeconds, lines: [...made, `restored from ${text} on ${order.target}`] };
    },
  };
}

/** Opens the backup that is to be restored. Raises AppError. */
export async function openOrdered(
  store: Store,
  { target, from }: RestoreOrder,
  { tell, signal }: Pick<RestoreParts, 'tell' | 'signal'>,
): Promise<OpenBackup> {
  const access = await readTargetAccess(await readTarget(store, target));
  await tell(`opening the backup of guest ${from.vmid}`);
  const say = slowly(tell);
  const onProgress = (disk: string, doneBytes: number, totalBytes: number): void =>
    say(`restoring ${disk}`, { doneBytes, totalBytes });
  return await openBackup({ access, from }, onProgress, signal);
}

/** What a new guest made from the backup is like. */
export function newGuestConfig({ vmid, bridge, keepMacs }: RestoreOrder, { guest, snapshot }: OpenBackup): GuestConfig {
  const macOf = keepMacs ? null : (card: number) => freshMac(vmid, snapshot, card);
  return restoredConfig(guest.config, { bridge, macOf });
}

/** The same for a repeated request: a guest that was made is recognised by its configuration. */
function freshMac(vmid: number, snapshot: SnapshotId, card: number): string {
  return macFromBytes(
    createHash('sha256')
      .update(`${vmid} ${formatSnapshot(snapshot)} ${card}`)
      .digest(),
  );
}
