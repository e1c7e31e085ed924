import { callRest, logIn } from '#adapters/backup-client/connection.ts';
import { keepRules, type KeepRules } from '#core/backup/prune.ts';
import type { TargetAccess } from '#programs/guest-backup/upload-messages.ts';

/** Lets the target remove what the rules do not keep of a guest's backups. Raises AppError with its words. */
export async function pruneGroup(access: TargetAccess, vmid: number, keep: KeepRules, signal: AbortSignal): Promise<void> {
  const target = { repository: access.repository, fingerprint: access.fingerprint, signal };
  const login = await logIn(target, access.secret);
  const rules = keepRules.flatMap((rule) => (keep[rule] === null ? [] : [[`keep-${rule}`, keep[rule]] as const]));
  const body = {
    'backup-type': 'vm',
    'backup-id': String(vmid),
    ...(access.namespace.length === 0 ? {} : { ns: access.namespace.join('/') }),
    ...Object.fromEntries(rules),
  };
  await callRest(target, login, { method: 'POST', path: `admin/datastore/${access.repository.store}/prune`, body });
}
