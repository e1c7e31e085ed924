import { fieldsOf, type Reading, type Volume } from './reading.ts';

export type Partition = { number: number; at: number; sizeBytes: number; name: string };

const sectorSizes = [512, 4096];
const extendedTypes = new Set([0x05, 0x0f, 0x85]);
const protective = 0xee;
/** More logical partitions than any tool makes: a ring of them ends here. */
const mostLogical = 128;

/** The partitions of a disk by GPT or MBR; none when it has no table. UEFI 2.10, chapter 5; the MBR as every BIOS reads it. */
export function* readPartitions(disk: Volume): Reading<Partition[]> {
  if (disk.sizeBytes < 4096) return [];
  for (const sectorBytes of sectorSizes) {
    const found = yield* readGpt(disk, sectorBytes);
    if (found !== null) return found;
  }
  return yield* readMbr(disk);
}

function* readGpt(disk: Volume, sectorBytes: number): Reading<Partition[] | null> {
  if (disk.sizeBytes < sectorBytes * 2) return null;
  const header = fieldsOf(yield* disk.read(sectorBytes, 512));
  if (header.text(0, 8) !== 'EFI PART') return null;
  const [tableAt, count, entryBytes] = [header.u64(72) * sectorBytes, header.u32(80), header.u32(84)];
  if (count > 1024 || entryBytes < 128 || entryBytes > 4096) return null;
  const table = yield* disk.read(tableAt, count * entryBytes);
  const partitions: Partition[] = [];
  for (let number = 1; number <= count; number += 1) {
    const entry = table.subarray((number - 1) * entryBytes, number * entryBytes);
    if (entry.subarray(0, 16).every((byte) => byte === 0)) continue;
    const fields = fieldsOf(entry);
    const [first, last] = [fields.u64(32), fields.u64(40)];
    if (last < first || first * sectorBytes >= disk.sizeBytes) continue;
    const name = new TextDecoder('utf-16le').decode(entry.subarray(56, 128)).replace(/\0.*$/s, '');
    partitions.push({ number, at: first * sectorBytes, sizeBytes: (last - first + 1) * sectorBytes, name });
  }
  return partitions;
}

function* readMbr(disk: Volume): Reading<Partition[]> {
  const sector = yield* disk.read(0, 512);
  const entries = readTable(sector);
  if (entries === null || entries.some(({ type }) => type === protective)) return [];
  const partitions: Partition[] = [];
  for (const [index, { type, first, count }] of entries.entries()) {
    if (type === 0 || count === 0) continue;
    if (extendedTypes.has(type)) partitions.push(...(yield* readLogical(disk, first)));
    else partitions.push({ number: index + 1, at: first * 512, sizeBytes: count * 512, name: '' });
  }
  return partitions.filter(({ at }) => at < disk.sizeBytes).toSorted((a, b) => a.number - b.number);
}

function* readLogical(disk: Volume, extendedFirst: number): Reading<Partition[]> {
  const partitions: Partition[] = [];
  let next = extendedFirst;
  while (partitions.length < mostLogical && next * 512 + 512 <= disk.sizeBytes) {
    const [own, link] = readTable(yield* disk.read(next * 512, 512)) ?? [];
    if (own === undefined || own.count === 0) break;
    const at = (next + own.first) * 512;
    partitions.push({ number: 5 + partitions.length, at, sizeBytes: own.count * 512, name: '' });
    if (link === undefined || link.count === 0) break;
    next = extendedFirst + link.first;
  }
  return partitions;
}

/** The four entries; null: it is no table, for the boot sector of a file system ends in the same two bytes. */
function readTable(sector: Uint8Array): { type: number; first: number; count: number }[] | null {
  const fields = fieldsOf(sector);
  if (fields.u16(510) !== 0xaa55) return null;
  const places = [446, 462, 478, 494];
  if (places.some((at) => (fields.u8(at) & 0x7f) !== 0)) return null;
  return places.map((at) => ({ type: fields.u8(at + 4), first: fields.u32(at + 8), count: fields.u32(at + 12) }));
}
