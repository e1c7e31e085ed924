import type { ServedDisks } from '#ports/guest-storage.ts';
import { formatSnapshot, type SnapshotId } from '#core/backup/names.ts';
import { formatGuestBlob } from '#core/guest-backup/guest-blob.ts';
import type { BackupKind } from '#core/guest-backup/records.ts';
import type { GuestBackupDeps, GuestBackupOrder, GuestBackupResult } from '#programs/guest-backup/guest-backup.ts';
import { openUpload } from '#programs/guest-backup/upload-thread.ts';

export type StoppedGuest = { vmid: number; generation: number; serve: () => Promise<ServedDisks> };

/**
 * One backup of a guest that nothing runs and nobody starts until this returns. No bitmap knows of its disks: all of them is read, and what the
 * target's newest backup lacks is sent. Raises AppError; when it returns, nothing has its disks open.
 */
export async function backUpStopped(
  deps: Pick<GuestBackupDeps, 'node' | 'clock' | 'log'>,
  guest: StoppedGuest,
  order: GuestBackupOrder,
  signal: AbortSignal,
): Promise<GuestBackupResult> {
  const startedMs = performance.now();
  const { vmid, generation } = guest;
  const { access } = order;
  const pointAtMs = deps.clock.wallMs();
  const atSeconds = Math.floor(pointAtMs / 1_000);
  const snapshot: SnapshotId = { namespace: access.namespace, type: 'vm', id: String(vmid), atSeconds };
  order.onProgress('reaching the backup server', null);
  await using upload = await openUpload({ access, snapshot }, signal);
  const kind: BackupKind = upload.previous === null ? 'whole' : 'compare';
  const because = upload.previous === null ? 'the target has no earlier backup to build on' : 'the guest does not run';
  const { name, config } = order.guest;
  const blob = {
    version: 1 as const,
    vmid,
    name,
    config,
    home: deps.node,
    generation,
    pointAtMs,
    consistency: 'stopped' as const,
  };
  const served = await guest.serve();
  const { nbdSocket: socketPath, disks } = served;
  const { notes, rateBytesPerSecond } = order;
  const what = {
    socketPath,
    disks,
    bitmap: null,
    canRelease: false,
    guestBlob: formatGuestBlob(blob),
    notes,
    rateBytesPerSecond,
  };
  const sent = await upload
    .send(what, (progress) => order.onProgress(`${kind} backup of the stopped guest`, progress))
    .finally(() => served.close());
  signal.throwIfAborted();
  await order.confirm();
  order.onProgress('the backup server makes it durable', null);
  await upload.finish();
  deps.log(`guest ${vmid}: backup ${formatSnapshot(snapshot)} of the stopped guest to ${order.target} is complete`);
  const tookMs = Math.round(performance.now() - startedMs);
  return { snapshot, pointAtMs, figures: { ...sent.figures, kind, because, pausedMs: 0, consistency: 'stopped', tookMs } };
}
