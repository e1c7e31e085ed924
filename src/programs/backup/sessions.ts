import { randomInt } from 'node:crypto';
import type { TLSSocket } from 'node:tls';
import { AppError } from '#base/error.ts';
import type { Privilege } from '#core/access/acl.ts';
import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import { formatSnapshot, type SnapshotId } from '#core/backup/names.ts';
import { isOwnedBy } from '#core/backup/owner.ts';
import { readFlag, readSnapshot, readText, type WireParameters } from '#core/backup/wire-parameters.ts';
import type { BackupSession, Datastore } from '#ports/datastore.ts';
import type { TaskNote, Tasks } from '#ports/tasks.ts';
import type { Log } from '#programs/log.ts';
import type { Access } from './access.ts';
import { BackupProtocol, type Call } from './backup-protocol.ts';
import type { CheckContent } from './incoming-chunk.ts';
import type { Datastores } from './datastores.ts';
import { ReaderProtocol } from './reader-protocol.ts';
import type { Reply } from './reply.ts';

import { verifyScope } from './rest/work.ts';
import { serveSession, upgradeToHttp2 } from './session-stream.ts';
import { taskIdOf, type Stores } from './stores.ts';

export const upgradeProtocols = {
  backup: 'proxmox-backup-protocol-v1',
  reader: 'proxmox-backup-reader-protocol-v1',
} as const;

type Parts = {
  stores: Stores;
  access: Access;
  tasks: Tasks;
  functions: ByteFunctions;
  checkContent: CheckContent;
  log: Log;
  nowSeconds: () => number;
  datastores: Pick<Datastores, 'verifiesNew'>;
};
/** `isUpgraded`: it speaks HTTP/2 from now on. */
export type Connection = { socket: TLSSocket; rest: Uint8Array; isUpgraded: boolean };

/** A backup from the upgrade to the end of the connection; what was not finished by then leaves no trace. */
export async function runBackup(parts: Parts, caller: string, params: WireParameters, connection: Connection): Promise<void> {
  const { store, storeName, snapshot } = findTarget(parts, caller, params, ['Datastore.Backup']);
  const isBenchmark = readFlag(params, 'benchmark');
  if (isBenchmark && (snapshot.type !== 'host' || snapshot.id !== 'benchmark')) {
    throw new AppError('invalid', 'benchmark: only as host/benchmark');
  }
  const session = await store.startBackup(snapshot, caller);
  const { functions, checkContent } = parts;
  const protocol = new BackupProtocol(session, { functions, checkContent, isDiscarded: isBenchmark });
  const head = { type: 'backup', id: taskIdOf(storeName, snapshot), who: caller };
  await runAsTask(parts, head, connection, upgradeProtocols.backup, {
    answer: (call) => protocol.answer(call),
    begin: (note) => note(`backup of ${formatSnapshot(snapshot)}, after ${describeBase(session)}`),
    async end(note) {
      await session.abort(); // does nothing after a finish
      const { count, size, compressed_size: stored, duplicates } = session.stats;
      note(`${count} chunks received, ${size} bytes of data; ${duplicates} were here already, ${stored} bytes stored`);
      if (!protocol.isFinished && !isBenchmark)
        throw new AppError('unavailable', 'the client left before it finished: nothing of it is kept');
    },
  });
  if (protocol.isFinished && parts.datastores.verifiesNew(storeName)) verifyNew(parts, store, storeName, snapshot, caller);
}

function verifyNew({ tasks, nowSeconds }: Parts, store: Datastore, storeName: string, snapshot: SnapshotId, who: string): void {
  const { namespace, type, id, atSeconds } = snapshot;
  tasks.start({ type: 'verify_snapshot', id: taskIdOf(storeName, snapshot), who }, (work) => {
    const choice = { atSeconds, ignoreVerified: false, outdatedAfterDays: null };
    return verifyScope({ ...work, store }, { namespace, depth: 0, type, id }, choice, nowSeconds(), () => true);
  });
}

/** A restore from the upgrade to the end of the connection. */
export async function runReader(parts: Parts, caller: string, params: WireParameters, connection: Connection): Promise<void> {
  const { store, storeName, snapshot, path } = findTarget(parts, caller, params, ['Datastore.Read', 'Datastore.Backup']);
  if (!parts.access.has(caller, path, 'Datastore.Read')) {
    const { owner } = await store.readGroup(snapshot);
    if (owner === null || !isOwnedBy(owner, caller)) throw new AppError('denied', 'permission check failed');
  }
  const reader = await store.openSnapshot(snapshot);
  const protocol = new ReaderProtocol(reader, store, randomInt(2 ** 31));
  const head = { type: 'reader', id: taskIdOf(storeName, snapshot), who: caller };
  await runAsTask(parts, head, connection, upgradeProtocols.reader, {
    answer: (call) => protocol.answer(call),
    begin: (note) => note(`reading ${formatSnapshot(snapshot)}`),
    end(note) {
      reader.close();
      note(`${protocol.chunksRead} chunks read`);
      return Promise.resolve();
    },
  });
}

type Serving = {
  answer: (call: Call) => Promise<Reply>;
  begin(note: TaskNote): void;
  /** Always called, whatever happened. */
  end(note: TaskNote): Promise<void>;
};

/** Serves a session as a task: it is seen, has a log, and can be aborted, which cuts the connection. */
async function runAsTask(
  { tasks, log }: Parts,
  head: { type: string; id: string; who: string },
  connection: Connection,
  protocol: string,
  serving: Serving,
): Promise<void> {
  const { socket } = connection;
  let failure: unknown = null;
  const upid = tasks.start(head, async ({ note, signal }) => {
    const onAbort = (): void => void socket.destroy();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      serving.begin(note);
      const http2 = await upgradeToHttp2(socket, protocol, connection.rest);
      connection.isUpgraded = true;
      await serveSession(http2, serving.answer, (err) => log.debug({ event: 'session.trouble', err }, 'trouble in a session'));
    } catch (error) {
      failure = error;
      throw error;
    } finally {
      signal.removeEventListener('abort', onAbort);
      await serving.end(note);
    }
    signal.throwIfAborted();
  });
  log.info({ event: `${head.type}.started`, task: upid }, `${head.type} started`);
  const { end } = await tasks.wait(upid);
  log.info({ event: `${head.type}.ended`, task: upid, status: end?.status }, `${head.type} ended`);
  if (failure !== null && !connection.isUpgraded) throw failure as Error;
}

function describeBase({ base }: BackupSession): string {
  return base === null ? 'no earlier one that it could rest on' : formatSnapshot(base.snapshot);
}

/** The store and snapshot that the parameters name, if the caller has one of the privileges there. */
function findTarget(
  parts: Parts,
  caller: string,
  params: WireParameters,
  privileges: Privilege[],
): { store: Datastore; storeName: string; snapshot: SnapshotId; path: string } {
  const name = readText(params, 'store', 32);
  const snapshot = readSnapshot(params);
  const path = ['/datastore', name, ...snapshot.namespace].join('/');
  if (!privileges.some((privilege) => parts.access.has(caller, path, privilege)))
    throw new AppError('denied', 'permission check failed');
  const store = parts.stores.get(name);
  if (store === undefined) throw new AppError('missing', `datastore ${name} does not exist`);
  return { store, storeName: name, snapshot, path };
}
