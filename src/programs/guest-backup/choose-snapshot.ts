import { callRest, logIn, type Login, type Target } from '#adapters/backup-client/connection.ts';
import { openSession, type WireSession } from '#adapters/backup-client/wire-session.ts';
import { AppError } from '#base/error.ts';
import { formatGroup, type SnapshotId } from '#core/backup/names.ts';
import type { TargetAccess } from '#programs/guest-backup/upload-messages.ts';

/** A guest's backup: of that time, or the newest. */
export type BackupChoice = { vmid: number; atSeconds: number | null };

/** Opens a guest's backup for reading. Raises AppError: missing, or the server's words. */
export async function openGuestBackup(
  access: TargetAccess,
  from: BackupChoice,
  signal: AbortSignal,
): Promise<{ snapshot: SnapshotId; session: WireSession }> {
  const target: Target = { repository: access.repository, fingerprint: access.fingerprint, signal };
  const login = await logIn(target, access.secret);
  const snapshot = await chooseSnapshot(access, from, target, login);
  return { snapshot, session: await openSession('reader', access.repository.store, snapshot, target, login) };
}

async function chooseSnapshot(access: TargetAccess, from: BackupChoice, target: Target, login: Login): Promise<SnapshotId> {
  const group = { namespace: access.namespace, type: 'vm' as const, id: String(from.vmid) };
  if (from.atSeconds !== null) return { ...group, atSeconds: from.atSeconds };
  const ns = access.namespace.length === 0 ? null : access.namespace.join('/');
  const list = (await callRest(target, login, {
    method: 'GET',
    path: `admin/datastore/${access.repository.store}/snapshots`,
    query: { 'backup-type': group.type, 'backup-id': group.id, ns },
  })) as Record<string, unknown>[];
  // Without a size it is not finished.
  const times = list.flatMap((item) => (item['size'] === undefined ? [] : [Number(item['backup-time'])]));
  if (times.length === 0) throw new AppError('missing', `there is no finished backup of ${formatGroup(group)}`);
  return { ...group, atSeconds: Math.max(...times) };
}
