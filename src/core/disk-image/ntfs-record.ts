import { damaged, fieldsOf, type Fields } from './reading.ts';

/** Numbers of the on-disk format: the Linux-NTFS project's documentation. */
export const attributeTypes = {
  standard: 0x10,
  list: 0x20,
  name: 0x30,
  volumeName: 0x60,
  data: 0x80,
  indexRoot: 0x90,
  indexAllocation: 0xa0,
  bitmap: 0xb0,
  reparse: 0xc0,
} as const;
export const attributeFlags = { compressed: 0x1, encrypted: 0x4000 } as const;

/** A run of an attribute's clusters; `cluster` null: zeros. */
export type NtfsRun = { from: number; count: number; cluster: number | null };
/** A piece of an attribute as it stands in one record. `value`: of a resident one; else runs. */
export type NtfsAttribute = {
  type: number;
  name: string;
  flags: number;
  value: Uint8Array | null;
  runs: NtfsRun[];
  sizeBytes: number;
  initializedBytes: number;
  /** Clusters that are compressed together; 0: none are. */
  unitClusters: number;
  /** First cluster of this piece. */
  from: number;
};

const endMark = 0xffffffff;

/** The number of a record; the upper two bytes count how often it was used. */
export function readReference(fields: Fields, at: number): number {
  return fields.u32(at) + fields.u16(at + 4) * 2 ** 32;
}

/** Undoes the marks at the ends of a record's sectors. Raises AppError when it was torn in writing. */
export function repairRecord(raw: Uint8Array, magic: string): Uint8Array {
  const bytes = Uint8Array.from(raw);
  const fields = fieldsOf(bytes);
  if (fields.text(0, 4) !== magic) throw damaged(`a record of an ntfs is no ${magic}`);
  const [at, count] = [fields.u16(4), fields.u16(6)];
  for (let sector = 1; sector < count; sector += 1) {
    const end = sector * 512 - 2;
    if (fields.u16(end) !== fields.u16(at)) throw damaged('a record of an ntfs was torn in writing');
    bytes.set(bytes.subarray(at + sector * 2, at + sector * 2 + 2), end);
  }
  return bytes;
}

export function readAttributes(record: Uint8Array): NtfsAttribute[] {
  const fields = fieldsOf(record);
  const attributes: NtfsAttribute[] = [];
  for (let at = fields.u16(20); at + 8 <= record.length && fields.u32(at) !== endMark;) {
    const length = fields.u32(at + 4);
    if (length < 24 || at + length > record.length) throw damaged('an attribute of an ntfs makes no sense');
    attributes.push(readAttribute(record.subarray(at, at + length)));
    at += length;
  }
  return attributes;
}

function readAttribute(raw: Uint8Array): NtfsAttribute {
  const fields = fieldsOf(raw);
  const [nameChars, nameAt] = [fields.u8(9), fields.u16(10)];
  const head = {
    type: fields.u32(0),
    name: new TextDecoder('utf-16le').decode(raw.subarray(nameAt, nameAt + nameChars * 2)),
    flags: fields.u16(12),
  };
  if (fields.u8(8) === 0) {
    const [bytes, at] = [fields.u32(16), fields.u16(20)];
    const value = raw.subarray(at, at + bytes);
    return { ...head, value, runs: [], sizeBytes: value.length, initializedBytes: value.length, unitClusters: 0, from: 0 };
  }
  const from = fields.u64(16);
  const unit = fields.u16(34);
  return {
    ...head,
    value: null,
    runs: readRuns(raw.subarray(fields.u16(32)), from),
    sizeBytes: from === 0 ? fields.u64(48) : 0,
    initializedBytes: from === 0 ? fields.u64(56) : 0,
    unitClusters: (head.flags & attributeFlags.compressed) !== 0 && unit > 0 && unit < 8 ? 2 ** unit : 0,
    from,
  };
}

/** Pairs of lengths and distances, each of as many bytes as a byte before them says. */
function readRuns(raw: Uint8Array, first: number): NtfsRun[] {
  const runs: NtfsRun[] = [];
  let [at, from, cluster] = [0, first, 0];
  while (at < raw.length && raw[at] !== 0) {
    const sizes = raw[at] ?? 0;
    const [countBytes, offsetBytes] = [sizes & 15, sizes >> 4];
    const count = readSigned(raw, at + 1, countBytes);
    if (count <= 0) throw damaged('a run of an ntfs has no length');
    if (offsetBytes > 0) cluster += readSigned(raw, at + 1 + countBytes, offsetBytes);
    runs.push({ from, count, cluster: offsetBytes === 0 ? null : cluster });
    from += count;
    at += 1 + countBytes + offsetBytes;
  }
  return runs;
}

function readSigned(raw: Uint8Array, at: number, bytes: number): number {
  if (bytes > 7 || at + bytes > raw.length) throw damaged('a run of an ntfs makes no sense');
  let value = 0;
  for (let index = 0; index < bytes; index += 1) value += (raw[at + index] ?? 0) * 2 ** (8 * index);
  return bytes > 0 && ((raw[at + bytes - 1] ?? 0) & 0x80) !== 0 ? value - 2 ** (8 * bytes) : value;
}

/** One compression unit (LZNT1: Microsoft, MS-XCA 2.5); what it does not fill is zeros. */
export function decompressUnit(raw: Uint8Array, unitBytes: number): Uint8Array {
  const result = new Uint8Array(unitBytes);
  const fields = fieldsOf(raw);
  let [at, done] = [0, 0];
  while (at + 2 <= raw.length && done < unitBytes) {
    const header = fields.u16(at);
    if (header === 0) break;
    const end = at + 3 + (header & 0xfff);
    if (end > raw.length) throw damaged('a compressed file is cut short');
    const part = (header & 0x8000) === 0 ? raw.subarray(at + 2, end) : decompressBlock(raw.subarray(at + 2, end));
    result.set(part.subarray(0, unitBytes - done), done);
    done += 4096;
    at = end;
  }
  return result;
}

function decompressBlock(raw: Uint8Array): Uint8Array {
  const result = new Uint8Array(4096);
  let [at, done] = [0, 0];
  while (at < raw.length && done < 4096) {
    const flags = raw[at++] ?? 0;
    for (let bit = 0; bit < 8 && at < raw.length && done < 4096; bit += 1) {
      if ((flags & (1 << bit)) === 0) {
        result[done++] = raw[at++] ?? 0;
        continue;
      }
      const token = (raw[at] ?? 0) | ((raw[at + 1] ?? 0) << 8);
      at += 2;
      // The further on, the more bits the distance needs, and the fewer are left for the length.
      let lengthBits = 12;
      while (done > 1 << (16 - lengthBits)) lengthBits -= 1;
      const [distance, length] = [(token >> lengthBits) + 1, (token & ((1 << lengthBits) - 1)) + 3];
      if (distance > done) throw damaged('a compressed file points before its beginning');
      for (let copied = 0; copied < length && done < 4096; copied += 1, done += 1) result[done] = result[done - distance] ?? 0;
    }
  }
  return result;
}
