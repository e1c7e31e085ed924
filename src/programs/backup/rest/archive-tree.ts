import { AppError } from '#base/error.ts';
import { joinBytes } from '#core/backup/bytes.ts';
import { parseIndex, type ChunkIndex } from '#core/backup/chunk-index.ts';
import { parseArchiveName } from '#core/backup/names.ts';
import { checkPayloadHeader, payloadSpan, PxarDecoder, type PxarEvent } from '#core/backup/pxar-decoder.ts';
import { encodeTarEnd, encodeTarHeader, tarPadding, type TarEntry } from '#core/backup/tar.ts';
import type { Datastore, SnapshotReader } from '#ports/datastore.ts';
import { readArchive } from '../stored-chunk.ts';

type Parts = { store: Pick<Datastore, 'readChunk'>; reader: SnapshotReader };
type Path = readonly Uint8Array[];
type NodeEvent = Extract<PxarEvent, { kind: 'directory' | 'file' | 'file-ref' | 'symlink' | 'device' | 'special' }>;

/** The index of an archive of a snapshot. Raises AppError missing, or invalid for a name that is no index's. */
export async function openIndex({ reader }: Parts, name: string): Promise<ChunkIndex> {
  const { kind } = parseArchiveName(name, 'file-name');
  if (kind === 'blob') throw new AppError('invalid', `file-name: ${name} is not an archive`);
  return parseIndex(kind, await reader.read(name), name);
}

/** What lies at a path of an archive: a file's content, or a directory to be told entry by entry. */
export type Found =
  | { kind: 'file'; sizeBytes: number; content: AsyncIterable<Uint8Array> }
  | { kind: 'directory'; tar: AsyncIterable<Uint8Array> };

/** Finds what lies at `path` below the root of the archive `name`, split or not. Raises AppError missing. */
export async function findInArchive(parts: Parts, name: string, path: Path): Promise<Found> {
  const events = readEvents(parts, await openIndex(parts, name));
  const shown = path.map((level) => Buffer.from(level).toString()).join('/');
  let depth = -1; // of the directory that is open; the root is 0
  let matched = 0;
  // By hand, as leaving a loop would end the events for what is returned.
  for (let next = await events.next(); next.done !== true; next = await events.next()) {
    const event = next.value;
    if (event.kind === 'directory') {
      depth += 1;
      if (depth === 0 ? path.length === 0 : isNext(event.name, depth)) {
        if (depth === path.length) return { kind: 'directory', tar: tarOf(parts, name, events, event) };
        matched = depth;
      }
    } else if (event.kind === 'leave') {
      depth -= 1;
      if (depth < matched) break; // everything in the wanted directory has been seen
    } else if (
      (event.kind === 'file' || event.kind === 'file-ref') &&
      depth + 1 === path.length &&
      isNext(event.name, depth + 1)
    ) {
      const sizeBytes = event.kind === 'file' ? event.sizeBytes : event.ref.sizeBytes;
      return { kind: 'file', sizeBytes, content: contentOf(parts, name, events, event) };
    }
  }
  throw new AppError('missing', `${name} has no file or directory ${shown}`);

  function isNext(entry: Uint8Array | null, at: number): boolean {
    const wanted = path[at - 1];
    return matched === at - 1 && wanted !== undefined && entry !== null && Buffer.compare(entry, wanted) === 0;
  }
}

async function* readEvents({ store }: Parts, index: ChunkIndex): AsyncGenerator<PxarEvent> {
  const decoder = new PxarDecoder();
  for await (const bytes of readArchive(store, index)) yield* decoder.push(bytes);
  decoder.end();
}

async function* contentOf(
  parts: Parts,
  name: string,
  events: AsyncGenerator<PxarEvent>,
  event: NodeEvent,
): AsyncGenerator<Uint8Array> {
  if (event.kind === 'file-ref') {
    const index = await openIndex(parts, name.replace(/\.mpxar\.didx$/, '.ppxar.didx'));
    const { headerAt, dataAt, end } = payloadSpan(event.ref);
    const head: Uint8Array[] = [];
    for await (const bytes of readArchive(parts.store, index, headerAt, dataAt)) head.push(bytes);
    checkPayloadHeader(joinBytes(head), event.ref);
    yield* readArchive(parts.store, index, dataAt, end);
    return;
  }
  for (let next = await events.next(); next.done !== true && next.value.kind === 'data'; next = await events.next()) {
    yield next.value.bytes;
  }
}

/** A directory and all that is in it, its own name left out of the paths. */
async function* tarOf(parts: Parts, name: string, events: AsyncGenerator<PxarEvent>, top: NodeEvent): AsyncGenerator<Uint8Array> {
  const levels: Uint8Array[] = [Buffer.from('.')];
  const paths = new Map<number, Uint8Array>();
  yield encodeTarHeader(entryOf(top, Buffer.from('./'), 0));
  for (let next = await events.next(); next.done !== true && levels.length > 0; next = await events.next()) {
    const event = next.value;
    if (event.kind === 'leave') {
      levels.pop();
      if (levels.length === 0) break;
      continue;
    }
    if (event.kind === 'version' || event.kind === 'prelude' || event.kind === 'data' || event.kind === 'file-end') continue;
    const path = joinPath([...levels, event.name ?? Buffer.from('')]);
    if (event.kind === 'hardlink') {
      const target = paths.get(event.targetAt);
      // What lies outside of this directory cannot be linked to.
      if (target !== undefined) yield encodeTarHeader({ ...plainEntry(path), kind: 'hardlink', link: target });
      continue;
    }
    paths.set(event.at, path);
    if (event.kind === 'directory') {
      levels.push(event.name ?? Buffer.from(''));
      yield encodeTarHeader(entryOf(event, Buffer.concat([path, Buffer.from('/')]), 0));
    } else if (event.kind === 'file' || event.kind === 'file-ref') {
      const sizeBytes = event.kind === 'file' ? event.sizeBytes : event.ref.sizeBytes;
      yield encodeTarHeader(entryOf(event, path, sizeBytes));
      yield* contentOf(parts, name, events, event);
      yield new Uint8Array(tarPadding(sizeBytes));
    } else if (event.kind !== 'special' || (event.stat.mode & 0o170000) === 0o010000)
      yield encodeTarHeader(entryOf(event, path, 0)); // a socket means nothing elsewhere
  }
  yield encodeTarEnd();
}

function entryOf(event: NodeEvent, path: Uint8Array, sizeBytes: number): TarEntry {
  const { mode, uid, gid, mtimeSeconds } = event.stat;
  const base = { ...plainEntry(path), mode: mode & 0o7777, uid, gid, mtimeSeconds };
  switch (event.kind) {
    case 'directory':
      return { ...base, kind: 'directory' };
    case 'symlink':
      return { ...base, kind: 'symlink', link: event.target };
    case 'device':
      return {
        ...base,
        kind: (mode & 0o170000) === 0o060000 ? 'block-device' : 'char-device',
        device: { major: event.major, minor: event.minor },
      };
    case 'special':
      return { ...base, kind: 'fifo' };
    case 'file':
    case 'file-ref':
      return { ...base, sizeBytes };
  }
}

function plainEntry(path: Uint8Array): TarEntry {
  return { kind: 'file', path, link: null, mode: 0o644, uid: 0, gid: 0, sizeBytes: 0, mtimeSeconds: 0, device: null };
}

function joinPath(levels: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(levels.flatMap((level, at) => (at === 0 ? [level] : [Buffer.from('/'), level])));
}
