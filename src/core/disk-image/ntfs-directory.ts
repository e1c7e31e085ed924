import type { FileEntry } from './file-system.ts';
import { readReference, repairRecord } from './ntfs-record.ts';
import { damaged, fieldsOf } from './reading.ts';

const entryFlags = { last: 2 } as const;
/** A second name of a file, for programs of the old days. */
const dosNames = 2;

export function readIndexRoot(value: Uint8Array): { entries: FileEntry[]; blockBytes: number } {
  const blockBytes = fieldsOf(value).u32(8);
  if (blockBytes < 512 || blockBytes > 1 << 20) throw damaged('the index of a directory makes no sense');
  return { entries: readEntries(value, 16), blockBytes };
}

export function readIndexBlock(raw: Uint8Array): FileEntry[] {
  return readEntries(repairRecord(raw, 'INDX'), 24);
}

/** The entries after the header at `headerAt`. */
function readEntries(raw: Uint8Array, headerAt: number): FileEntry[] {
  const fields = fieldsOf(raw);
  const end = headerAt + fields.u32(headerAt + 4);
  const entries: FileEntry[] = [];
  for (let at = headerAt + fields.u32(headerAt); at + 16 <= Math.min(end, raw.length);) {
    const length = fields.u16(at + 8);
    if ((fields.u16(at + 12) & entryFlags.last) !== 0) break;
    if (length < 16 || at + length > raw.length) throw damaged('an entry of a directory makes no sense');
    const key = at + 16;
    if (fields.u8(key + 65) !== dosNames) {
      const name = raw.subarray(key + 66, key + 66 + fields.u8(key + 64) * 2);
      entries.push({ name: new TextDecoder('utf-16le').decode(name), id: readReference(fields, at) });
    }
    at += length;
  }
  return entries;
}
