import { callRest, logIn, type Login, type Target } from '#adapters/backup-client/connection.ts';
import { openSession, type WireSession } from '#adapters/backup-client/wire-session.ts';
import { AppError, isAppError } from '#base/error.ts';
import {
  clientLogFile,
  parseBackupId,
  parseBackupTime,
  parseBackupType,
  parseNamespace,
  type GroupId,
  type SnapshotId,
} from '#core/backup/names.ts';
import type { Remote } from '../jobs-book.ts';

/** A snapshot at the other server. One without a size is being written, or damaged. `hasLog`: its client sent a log. */
export type PeerSnapshot = { snapshot: SnapshotId; isFinished: boolean; hasLog: boolean };

/** The other server of a sync. */
export type Peer = {
  /** The namespace and those below it. A server too old to know namespaces has the root alone. */
  namespaces(from: readonly string[], depth: number | null): Promise<string[][]>;
  groups(namespace: readonly string[]): Promise<GroupId[]>;
  snapshots(group: GroupId): Promise<PeerSnapshot[]>;
  open(kind: 'backup' | 'reader', snapshot: SnapshotId): Promise<WireSession>;
};

function isLog(file: unknown): boolean {
  return typeof file === 'object' && file !== null && 'filename' in file && file.filename === clientLogFile;
}

/** Logs in at a remote. Raises AppError with the other server's words. */
export async function openPeer(remote: Remote, store: string, signal: AbortSignal): Promise<Peer> {
  const { authId, host, port, fingerprint, secret } = remote;
  const target: Target = { repository: { user: authId, host, port, store }, fingerprint, signal };
  const login: Login = await logIn(target, secret);
  const base = `admin/datastore/${encodeURIComponent(store)}`;
  const list = async (path: string, query: Record<string, string | number | null>): Promise<Record<string, unknown>[]> => {
    const answer = await callRest(target, login, { method: 'GET', path: `${base}/${path}`, query });
    if (!Array.isArray(answer)) throw new AppError('unavailable', `${path}: the other server answers no list`);
    return answer as Record<string, unknown>[];
  };
  return {
    async namespaces(from, depth) {
      try {
        const query = { parent: from.length === 0 ? null : from.join('/'), 'max-depth': depth };
        return (await list('namespace', query)).map(({ ns }) => parseNamespace(ns));
      } catch (error) {
        if (isAppError(error, 'missing') && from.length === 0) return [[]];
        throw error;
      }
    },
    async groups(namespace) {
      const found = await list('groups', { ns: namespaceText(namespace) });
      return found.map((group) => readGroup(namespace, group));
    },
    async snapshots(group) {
      const query = { ns: namespaceText(group.namespace), 'backup-type': group.type, 'backup-id': group.id };
      return (await list('snapshots', query)).map((entry) => ({
        snapshot: { ...readGroup(group.namespace, entry), atSeconds: parseBackupTime(entry['backup-time']) },
        isFinished: typeof entry['size'] === 'number',
        hasLog: Array.isArray(entry['files']) && entry['files'].some(isLog),
      }));
    },
    open: (kind, snapshot) => openSession(kind, store, snapshot, target, login),
  };
}

/** The other server's words become paths here: they are checked as a client's are. */
function readGroup(namespace: readonly string[], entry: Record<string, unknown>): GroupId {
  return { namespace, type: parseBackupType(entry['backup-type']), id: parseBackupId(entry['backup-id']) };
}

function namespaceText(namespace: readonly string[]): string | null {
  return namespace.length === 0 ? null : namespace.join('/');
}
