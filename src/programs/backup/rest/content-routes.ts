import { pipeline, Readable } from 'node:stream';
import { createZstdCompress } from 'node:zlib';
import { AppError } from '#base/error.ts';
import { flag, optional, parsed, text } from '#core/access/parameter.ts';
import { blobLimits, decodeBlob } from '#core/backup/blob.ts';
import { joinBytes } from '#core/backup/bytes.ts';
import { readCatalogRoot, readCatalogTable, type CatalogEntry } from '#core/backup/catalog.ts';
import { parseArchiveName } from '#core/backup/names.ts';
import { fileParameters, snapshotOf, snapshotParameters } from '#core/backup/rest-parameters.ts';
import type { RestReply } from '../reply.ts';
import { readArchive } from '../stored-chunk.ts';
import { findInArchive, openIndex } from './archive-tree.ts';
import { data, route, storeOf, type RestContext } from './context.ts';

const base = 'admin/datastore/{store}';
const read = {
  kind: 'rights',
  on: '/datastore/{store}/{ns}',
  any: ['Datastore.Read'],
  ifOwner: ['Datastore.Backup'],
} as const;
const catalogFile = 'catalog.pcat1.didx';
/** A catalog is read whole; larger ones belong to archives that nobody browses by hand. */
const catalogBytes = 512 * 1024 * 1024;
const pathParameter = parsed(65_536, 'path, base64; "/" is the top', decodePath);
const letterOf: Record<CatalogEntry['kind'], string> = {
  directory: 'd',
  file: 'f',
  symlink: 'l',
  hardlink: 'h',
  'block-device': 'b',
  'char-device': 'c',
  fifo: 'p',
  socket: 's',
};

/** What snapshots hold: files as stored or decoded, the client's log, catalogs, single files of archives. */
export const contentRoutes = [
  route({
    method: 'GET',
    path: `${base}/download`,
    what: 'a file of a snapshot as it is stored',
    permission: read,
    parameters: fileParameters,
    run: (params, context) =>
      withReader(context, params, async ({ reader }) => ({ kind: 'bytes', bytes: await reader.read(params['file-name']) })),
  }),
  route({
    method: 'GET',
    path: `${base}/download-decoded`,
    what: 'the data of an archive or a blob that is not encrypted',
    permission: read,
    parameters: fileParameters,
    run: (params, context) =>
      withReader(context, params, async (parts) => {
        const name = params['file-name'];
        const { kind } = parseArchiveName(name, 'file-name');
        const entry = parts.reader.manifest.files.find((file) => file.name === name);
        if (entry?.cryptMode === 'encrypt')
          throw new AppError('invalid', `file-name: ${name} is encrypted; only its client can decode it`);
        if (kind !== 'blob') {
          const index = await openIndex(parts, name);
          return stream(readArchive(parts.store, index), index.sizeBytes);
        }
        const encoded = await parts.reader.read(name);
        const bytes = decodeBlob(encoded, { key: null, maxBytes: blobLimits.wholeBytes, what: name }, context.functions);
        return { kind: 'bytes', bytes };
      }),
  }),
  route({
    method: 'POST',
    path: `${base}/upload-backup-log`,
    what: 'stores the log of the client, once',
    permission: { kind: 'rights', on: '/datastore/{store}/{ns}', any: [], ifOwner: ['Datastore.Backup'] },
    parameters: snapshotParameters,
    body: 'raw',
    async run(params, context) {
      await storeOf(context, params.store).addLog(snapshotOf(params), context.body);
      return data(null);
    },
  }),
  route({
    method: 'GET',
    path: `${base}/catalog`,
    what: 'lists a directory of the catalog of a snapshot; its top holds the archives',
    permission: read,
    parameters: {
      ...snapshotParameters,
      filepath: pathParameter,
      'archive-name': optional(text(255, 'the catalog, if it has another name')),
    },
    run: (params, context) =>
      withReader(context, params, async (parts) => {
        const index = await openIndex(parts, params['archive-name'] ?? catalogFile);
        if (index.sizeBytes > catalogBytes)
          throw new AppError('unsupported', `the catalog has ${index.sizeBytes} bytes, too many to browse`);
        const pieces: Uint8Array[] = [];
        for await (const bytes of readArchive(parts.store, index)) pieces.push(bytes);
        return data(listCatalog(joinBytes(pieces), params.filepath));
      }),
  }),
  route({
    method: 'GET',
    path: `${base}/pxar-file-download`,
    what: 'a file out of an archive, or a directory as a tar file compressed by zstd',
    permission: read,
    parameters: { ...snapshotParameters, filepath: pathParameter, tar: flag('directories as tar') },
    run: (params, context) =>
      withReader(context, params, async (parts) => {
        const [archive, ...path] = params.filepath;
        if (archive === undefined) throw new AppError('invalid', 'filepath: it begins with the name of an archive');
        const found = await findInArchive(parts, Buffer.from(archive).toString(), path);
        if (found.kind === 'file') return stream(found.content, found.sizeBytes);
        if (!params.tar) throw new AppError('unsupported', 'filepath: this is a directory; ask for it with tar=1');
        return stream(
          pipeline(Readable.from(found.tar), createZstdCompress(), () => {}), // whoever reads hears of a failure
          null,
        );
      }),
  }),
];

type Snapshot = Parameters<typeof snapshotOf>[0] & { store: string };
type Opened = Parameters<typeof openIndex>[0] & { store: ReturnType<typeof storeOf> };

/** The snapshot cannot be removed until the reply is out; a reply that is a stream ends the reading itself. */
async function withReader(
  context: RestContext,
  params: Snapshot,
  job: (parts: Opened) => Promise<RestReply>,
): Promise<RestReply> {
  const store = storeOf(context, params.store);
  const reader = await store.openSnapshot(snapshotOf(params));
  let isStreaming = false;
  try {
    const reply = await job({ store, reader });
    if (reply.kind !== 'stream') return reply;
    isStreaming = true;
    return { ...reply, close: () => reader.close() };
  } finally {
    if (!isStreaming) reader.close();
  }
}

function stream(content: AsyncIterable<Uint8Array>, sizeBytes: number | null): RestReply {
  return { kind: 'stream', content, sizeBytes, close: () => {} };
}

/** The levels of a path: `/`, `root` and nothing are the top, all else is base64 of `/a/b`. Raises AppError invalid. */
function decodePath(value: string, field: string): Uint8Array[] {
  if (value === '/' || value === 'root' || value === '') return [];
  const bytes = Buffer.from(value, 'base64');
  if (!/^[A-Za-z0-9+/_-]*={0,2}$/.test(value) || bytes.includes(0))
    throw new AppError('invalid', `${field}: this is not a path in base64`);
  const levels = bytes
    .toString('latin1')
    .split('/')
    .filter((level) => level !== '');
  if (levels.some((level) => level === '.' || level === '..')) throw new AppError('invalid', `${field}: a path has no . and ..`);
  return levels.map((level) => Buffer.from(level, 'latin1'));
}

function listCatalog(file: Uint8Array, path: readonly Uint8Array[]): unknown[] {
  let tableAt = readCatalogRoot(file);
  for (const level of path) {
    const entry = readCatalogTable(file, tableAt).find(({ name }) => Buffer.compare(name, level) === 0);
    if (entry?.kind !== 'directory') throw new AppError('missing', 'filepath: the catalog has no such directory');
    tableAt = entry.tableAt;
  }
  const above = path.map((level) => `/${Buffer.from(level).toString('latin1')}`).join('');
  return readCatalogTable(file, tableAt).map((entry) => ({
    filepath: Buffer.from(`${above}/${Buffer.from(entry.name).toString('latin1')}`, 'latin1').toString('base64'),
    text: Buffer.from(entry.name).toString(),
    type: letterOf[entry.kind],
    leaf: entry.kind !== 'directory',
    ...(entry.kind === 'file' ? { size: entry.sizeBytes, mtime: entry.mtimeSeconds } : {}),
  }));
}
