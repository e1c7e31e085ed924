import { AppError } from '#base/error.ts';
import type { BackupTarget } from '#core/guest-backup/records.ts';
import { keys } from '#core/ha/keys.ts';
import type { Store } from '#ports/store.ts';
import { readRecord } from '#programs/agent/world.ts';

/** Raises AppError missing when the cluster knows no such target. */
export async function readTarget(store: Store, id: string): Promise<BackupTarget> {
  const record = await readRecord<BackupTarget>(store, keys.backupTarget(id));
  if (record === null) throw new AppError('missing', `target: the cluster knows no backup target ${id}`);
  return record.value;
}
