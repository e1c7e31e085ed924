import { randomInt } from 'node:crypto';
import type { TLSSocket } from 'node:tls';
import { AppError } from '#base/error.ts';
import type { Privilege } from '#core/access/acl.ts';
import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import { formatSnapshot, type SnapshotId } from '#core/backup/names.ts';
import { isOwnedBy } from '#core/backup/owner.ts';
import { readFlag, readSnapshot, readText, type WireParameters } from '#core/backup/wire-parameters.ts';
import type { Datastore } from '#ports/datastore.ts';
import type { Log } from '#programs/log.ts';
import type { Access } from './access.ts';
import { BackupProtocol } from './backup-protocol.ts';
import { ReaderProtocol } from './reader-protocol.ts';
import { serveSession, upgradeToHttp2 } from './session-stream.ts';

export const upgradeProtocols = {
  backup: 'proxmox-backup-protocol-v1',
  reader: 'proxmox-backup-reader-protocol-v1',
} as const;

export type Stores = ReadonlyMap<string, Datastore>;
type Parts = { stores: Stores; access: Access; functions: ByteFunctions; log: Log };
/** `isUpgraded`: it speaks HTTP/2 from now on. */
export type Connection = { socket: TLSSocket; rest: Uint8Array; isUpgraded: boolean };

/** A backup from the upgrade to the end of the connection; what was not finished by then leaves no trace. */
export async function runBackup(parts: Parts, caller: string, params: WireParameters, connection: Connection): Promise<void> {
  const { store, snapshot } = findTarget(parts, caller, params, ['Datastore.Backup']);
  const isBenchmark = readFlag(params, 'benchmark');
  if (isBenchmark && (snapshot.type !== 'host' || snapshot.id !== 'benchmark')) {
    throw new AppError('invalid', 'benchmark: only as host/benchmark');
  }
  const session = await store.startBackup(snapshot, caller);
  const protocol = new BackupProtocol(session, parts.functions, isBenchmark);
  const { log } = parts;
  log.info({ event: 'backup.started', snapshot: formatSnapshot(snapshot), caller }, 'backup started');
  try {
    const http2 = await upgradeToHttp2(connection.socket, upgradeProtocols.backup, connection.rest);
    connection.isUpgraded = true;
    await serveSession(
      http2,
      (call) => protocol.answer(call),
      (err) => log.debug({ event: 'backup.trouble', err }, 'trouble in a backup'),
    );
  } finally {
    await session.abort(); // does nothing after a finish
    const event = protocol.isFinished ? 'backup.finished' : 'backup.discarded';
    log.info({ event, snapshot: formatSnapshot(snapshot), caller }, event);
  }
}

/** A restore from the upgrade to the end of the connection. */
export async function runReader(parts: Parts, caller: string, params: WireParameters, connection: Connection): Promise<void> {
  const { store, snapshot, path } = findTarget(parts, caller, params, ['Datastore.Read', 'Datastore.Backup']);
  if (!parts.access.has(caller, path, 'Datastore.Read')) {
    const { owner } = await store.readGroup(snapshot);
    if (owner === null || !isOwnedBy(owner, caller)) throw new AppError('denied', 'permission check failed');
  }
  const reader = await store.openSnapshot(snapshot);
  try {
    const protocol = new ReaderProtocol(reader, store, randomInt(2 ** 31));
    const http2 = await upgradeToHttp2(connection.socket, upgradeProtocols.reader, connection.rest);
    connection.isUpgraded = true;
    const { log } = parts;
    await serveSession(
      http2,
      (call) => protocol.answer(call),
      (err) => log.debug({ event: 'reader.trouble', err }, 'trouble in a restore'),
    );
  } finally {
    reader.close();
  }
}

/** The store and snapshot that the parameters name, if the caller has one of the privileges there. */
function findTarget(
  parts: Parts,
  caller: string,
  params: WireParameters,
  privileges: Privilege[],
): { store: Datastore; snapshot: SnapshotId; path: string } {
  const name = readText(params, 'store', 32);
  const snapshot = readSnapshot(params);
  const path = ['/datastore', name, ...snapshot.namespace].join('/');
  if (!privileges.some((privilege) => parts.access.has(caller, path, privilege)))
    throw new AppError('denied', 'permission check failed');
  const store = parts.stores.get(name);
  if (store === undefined) throw new AppError('missing', `datastore ${name} does not exist`);
  return { store, snapshot, path };
}
