import { mostEntries, type FileEntry, type FileNode, type FileSystem } from './file-system.ts';
import {
  attributeFlags,
  attributeTypes,
  decompressUnit,
  readAttributes,
  readReference,
  repairRecord,
  type NtfsAttribute,
  type NtfsRun,
} from './ntfs-record.ts';
import { readIndexBlock, readIndexRoot } from './ntfs-directory.ts';
import { damaged, fieldsOf, gather, notReadHere, type Fields, type FileRun, type Reading, type Volume } from './reading.ts';

const rootRecord = 5;
const volumeRecord = 3;
const recordFlags = { inUse: 1, directory: 2 } as const;
const linkTags = { symbolic: 0xa000000c, junction: 0xa0000003 } as const;
/** Records that one file may be spread over. */
const mostPieces = 4_096;

type Shape = { clusterBytes: number; recordBytes: number; mft: NtfsRun[] };
type Record = { id: number; flags: number; attributes: NtfsAttribute[] };

const note = 'changes that were in its log only when the backup was taken are not seen';

/** Reads NTFS, also compressed files; names of the DOS kind and other streams are left out. The log is not replayed. */
export function* openNtfs(volume: Volume): Reading<FileSystem | null> {
  if (volume.sizeBytes < 4096) return null;
  const fields = fieldsOf(yield* volume.read(0, 512));
  if (fields.text(3, 8) !== 'NTFS    ') return null;
  const shape = readShape(fields);
  const first = repairRecord(yield* volume.read(fields.u64(48) * shape.clusterBytes, shape.recordBytes), 'FILE');
  shape.mft = readAttributes(first).find(({ type, name }) => type === attributeTypes.data && name === '')?.runs ?? [];
  const reader = createReader(volume, shape);
  // The list of the table's own further pieces lies in its beginning.
  shape.mft = (yield* reader.record(0)).attributes
    .filter(({ type, name }) => type === attributeTypes.data && name === '')
    .flatMap(({ runs }) => runs);
  const label = (yield* reader.record(volumeRecord)).attributes.find(({ type }) => type === attributeTypes.volumeName)?.value;
  const { record: _own, ...files } = reader;
  const text = new TextDecoder('utf-16le').decode(label ?? new Uint8Array());
  return { kind: 'ntfs', label: text, notes: [note], rootId: rootRecord, ...files };
}

function readShape(fields: Fields): Shape {
  const perCluster = fields.u8(13);
  const clusterBytes = fields.u16(11) * (perCluster > 0x80 ? 2 ** (256 - perCluster) : perCluster);
  const records = fields.u8(64);
  const recordBytes = records > 0x7f ? 2 ** (256 - records) : records * clusterBytes;
  const isSane = clusterBytes >= 512 && clusterBytes <= 2 << 20 && recordBytes >= 512 && recordBytes <= 65_536;
  if (!isSane) throw damaged('the boot sector of an ntfs makes no sense');
  return { clusterBytes, recordBytes, mft: [] };
}

function createReader(volume: Volume, shape: Shape) {
  const { clusterBytes, recordBytes } = shape;

  function findRun(runs: readonly NtfsRun[], at: number): FileRun {
    const cluster = Math.floor(at / clusterBytes);
    const run = runs.find(({ from, count }) => cluster >= from && cluster < from + count);
    if (run === undefined) throw damaged(`a file of an ntfs has no cluster ${cluster}`);
    const inside = at - run.from * clusterBytes;
    const place = run.cluster === null ? null : run.cluster * clusterBytes + inside;
    return { at: place, bytes: run.count * clusterBytes - inside };
  }

  const readRuns = (runs: readonly NtfsRun[], at: number, bytes: number): Reading<Uint8Array> =>
    gather(volume, at, bytes, (place) => findRun(runs, place));

  function* plainRecord(id: number): Reading<Record> {
    const raw = repairRecord(yield* readRuns(shape.mft, id * recordBytes, recordBytes), 'FILE');
    return { id, flags: fieldsOf(raw).u16(22), attributes: readAttributes(raw) };
  }

  /** A file's record with the attributes that lie in others. */
  function* record(id: number): Reading<Record> {
    const own = yield* plainRecord(id);
    const list = own.attributes.find(({ type }) => type === attributeTypes.list);
    if (list === undefined) return own;
    const raw = list.value ?? (yield* readRuns(list.runs, 0, list.sizeBytes));
    const fields = fieldsOf(raw);
    const others = new Set<number>();
    for (let at = 0; at + 26 <= raw.length; at += Math.max(26, fields.u16(at + 4))) others.add(readReference(fields, at + 16));
    others.delete(id);
    if (others.size > mostPieces) throw damaged('a file of an ntfs is in too many pieces');
    const attributes = [...own.attributes];
    for (const other of others) attributes.push(...(yield* plainRecord(other)).attributes);
    return { ...own, attributes: attributes.toSorted((a, b) => a.from - b.from) };
  }

  /** An attribute put together; null: the file has none. */
  function findStream({ attributes }: Record, type: number, name: string): NtfsAttribute | null {
    const pieces = attributes.filter((attribute) => attribute.type === type && attribute.name === name);
    const [first] = pieces;
    return first === undefined ? null : { ...first, runs: pieces.flatMap(({ runs }) => runs) };
  }

  function* readStream(stream: NtfsAttribute, at: number, bytes: number): Reading<Uint8Array> {
    const length = Math.max(0, Math.min(bytes, stream.sizeBytes - at));
    if ((stream.flags & attributeFlags.encrypted) !== 0) throw notReadHere('a file that the guest encrypted');
    if (stream.value !== null) return stream.value.slice(at, at + length);
    const result = new Uint8Array(length);
    // What was never written reads as zeros, whatever lies there.
    const known = Math.max(0, Math.min(length, stream.initializedBytes - at));
    if (known === 0) return result;
    result.set(stream.unitClusters > 0 ? yield* readUnits(stream, at, known) : yield* readRuns(stream.runs, at, known));
    return result;
  }

  function* readUnits(stream: NtfsAttribute, at: number, bytes: number): Reading<Uint8Array> {
    const unitBytes = stream.unitClusters * clusterBytes;
    const result = new Uint8Array(bytes);
    for (let unit = Math.floor(at / unitBytes); unit * unitBytes < at + bytes; unit += 1) {
      const data = yield* readUnit(stream, unit * stream.unitClusters, unitBytes);
      const [from, to] = [Math.max(at, unit * unitBytes), Math.min(at + bytes, (unit + 1) * unitBytes)];
      result.set(data.subarray(from - unit * unitBytes, to - unit * unitBytes), from - at);
    }
    return result;
  }

  /** A unit with fewer clusters than it stands for is compressed; one without any is zeros. */
  function* readUnit({ runs, unitClusters }: NtfsAttribute, first: number, unitBytes: number): Reading<Uint8Array> {
    let real = 0;
    for (const { from, count, cluster } of runs) {
      if (cluster === null) continue;
      real += Math.max(0, Math.min(from + count, first + unitClusters) - Math.max(from, first));
    }
    if (real === 0) return new Uint8Array(unitBytes);
    const raw = yield* readRuns(runs, first * clusterBytes, real * clusterBytes);
    return real === unitClusters ? raw : decompressUnit(raw, unitBytes);
  }

  return {
    record,
    *look(id: number): Reading<FileNode> {
      return describe(yield* record(id));
    },
    *list(node: FileNode): Reading<FileEntry[]> {
      const found = yield* record(node.id);
      const root = findStream(found, attributeTypes.indexRoot, '$I30');
      if (root?.value === null || root?.value === undefined) throw damaged(`record ${node.id} is no directory`);
      const { entries, blockBytes } = readIndexRoot(root.value);
      const blocks = findStream(found, attributeTypes.indexAllocation, '$I30');
      const used = findStream(found, attributeTypes.bitmap, '$I30');
      if (blocks !== null && used !== null) {
        const bits = yield* readStream(used, 0, Math.min(used.sizeBytes, 1 << 20));
        const count = Math.min(Math.ceil(blocks.sizeBytes / blockBytes), bits.length * 8);
        for (let block = 0; block < count; block += 1) {
          if (((bits[block >> 3] ?? 0) & (1 << (block & 7))) === 0) continue;
          entries.push(...readIndexBlock(yield* readStream(blocks, block * blockBytes, blockBytes)));
          if (entries.length > mostEntries) throw damaged('a directory has too many entries');
        }
      }
      return entries.filter(({ name }) => name !== '.');
    },
    *read(node: FileNode, at: number, bytes: number): Reading<Uint8Array> {
      const data = findStream(yield* record(node.id), attributeTypes.data, '');
      return data === null ? new Uint8Array() : yield* readStream(data, at, bytes);
    },
    *readLink(node: FileNode): Reading<string> {
      const reparse = findStream(yield* record(node.id), attributeTypes.reparse, '');
      if (reparse === null) throw damaged(`record ${node.id} is no link`);
      return readTarget(yield* readStream(reparse, 0, 65_536));
    },
  };

  function describe(found: Record): FileNode {
    if ((found.flags & recordFlags.inUse) === 0) throw damaged(`there is no file ${found.id}`);
    const data = findStream(found, attributeTypes.data, '');
    const times = findStream(found, attributeTypes.standard, '')?.value;
    const tag = findStream(found, attributeTypes.reparse, '')?.value ?? null;
    const isDirectory = (found.flags & recordFlags.directory) !== 0;
    const kind = tag !== null && isLink(tag) ? 'link' : isDirectory ? 'directory' : 'file';
    const mtimeMs = times === null || times === undefined ? 0 : readTime(fieldsOf(times));
    return { id: found.id, kind, sizeBytes: data?.sizeBytes ?? 0, mode: null, uid: 0, gid: 0, mtimeMs };
  }
}

/** Hundreds of nanoseconds since 1601. */
function readTime(fields: Fields): number {
  return Number(fields.raw64(8) / 10_000n) - 11_644_473_600_000;
}

function isLink(reparse: Uint8Array): boolean {
  const tag = fieldsOf(reparse).u32(0);
  return tag === linkTags.symbolic || tag === linkTags.junction;
}

/** The name for people in a reparse point (Microsoft, MS-FSCC 2.1.2). */
function readTarget(reparse: Uint8Array): string {
  const fields = fieldsOf(reparse);
  const namesAt = fields.u32(0) === linkTags.symbolic ? 20 : 16;
  const [at, bytes] = [namesAt + fields.u16(12), fields.u16(14)];
  return new TextDecoder('utf-16le').decode(reparse.subarray(at, at + bytes)).replaceAll('\\', '/');
}
