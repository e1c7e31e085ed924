import { numberIn, parseLvmText, sectionIn, textIn, type LvmSection } from './lvm-text.ts';
import { damaged, fieldsOf, mostAtOnceBytes, type Reading, type Volume } from './reading.ts';

/** A volume that LVM uses, by the id that its label bears, with what it says of its group; null: it keeps no metadata. */
export type PhysicalVolume = { id: string; volume: Volume; metadata: string | null };
/** `volume` null: it cannot be read here, because … */
export type LogicalVolume = { group: string; name: string; volume: Volume | null; because: string };

/** Numbers of LVM2: lvm2, lib/format_text/layout.h. */
const sectorBytes = 512;
const areaMagic = ' LVM2 x[5A%r0N*>';

/** Looks for LVM's label; null: it is no physical volume. */
export function* readPhysicalVolume(volume: Volume): Reading<PhysicalVolume | null> {
  if (volume.sizeBytes < 4 * sectorBytes) return null;
  for (let sector = 0; sector < 4; sector += 1) {
    const raw = yield* volume.read(sector * sectorBytes, sectorBytes);
    const fields = fieldsOf(raw);
    if (fields.text(0, 8) !== 'LABELONE' || fields.text(24, 8) !== 'LVM2 001') continue;
    const header = fields.u32(20);
    let at = header + 40;
    for (; fields.u64(at) !== 0; at += 16); // data areas, ended by one of zeros
    at += 16;
    const [areaAt, areaBytes] = [fields.u64(at), fields.u64(at + 8)];
    const metadata = areaAt === 0 ? null : yield* readMetadata(volume, areaAt, areaBytes);
    return { id: fields.text(header, 32), volume, metadata };
  }
  return null;
}

/** The newest text in a metadata area: it is a ring after its header. */
function* readMetadata(volume: Volume, areaAt: number, areaBytes: number): Reading<string | null> {
  const fields = fieldsOf(yield* volume.read(areaAt, sectorBytes));
  if (fields.text(4, 16) !== areaMagic) return null;
  const [offset, bytes] = [fields.u64(40), fields.u64(48)];
  if (bytes === 0) return null;
  if (offset < sectorBytes || offset >= areaBytes || bytes > mostAtOnceBytes) throw damaged('the metadata of LVM makes no sense');
  const first = yield* volume.read(areaAt + offset, Math.min(bytes, areaBytes - offset));
  const rest = yield* volume.read(areaAt + sectorBytes, bytes - first.length);
  return fieldsOf(Uint8Array.from([...first, ...rest])).text(0, bytes);
}

/** The logical volumes that people made, from the newest metadata of each group. */
export function listLogicalVolumes(physical: readonly PhysicalVolume[]): LogicalVolume[] {
  const groups = new Map<string, LvmSection>();
  for (const { metadata } of physical) {
    if (metadata === null) continue;
    const [name, group] = Object.entries(parseLvmText(metadata)).find(([, value]) => isSection(value)) ?? [];
    if (name === undefined || !isSection(group)) continue;
    const known = groups.get(name);
    if (known === undefined || numberIn(known, 'seqno') < numberIn(group, 'seqno')) groups.set(name, group);
  }
  return [...groups].flatMap(([name, group]) => listOfGroup(name, group, physical));
}

function isSection(value: unknown): value is LvmSection {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function listOfGroup(group: string, about: LvmSection, physical: readonly PhysicalVolume[]): LogicalVolume[] {
  const extentBytes = numberIn(about, 'extent_size') * sectorBytes;
  const places = new Map<string, { volume: Volume; startBytes: number }>();
  for (const [name, section] of Object.entries(sectionIn(about, 'physical_volumes') ?? {})) {
    if (!isSection(section)) continue;
    const id = textIn(section, 'id').replaceAll('-', '');
    const found = physical.find((candidate) => candidate.id === id);
    if (found !== undefined) places.set(name, { volume: found.volume, startBytes: numberIn(section, 'pe_start') * sectorBytes });
  }
  return Object.entries(sectionIn(about, 'logical_volumes') ?? {}).flatMap(([name, section]): LogicalVolume[] => {
    const status = isSection(section) ? section['status'] : [];
    // Parts of mirrors and pools are not for people.
    if (!isSection(section) || !Array.isArray(status) || !status.includes('VISIBLE')) return [];
    try {
      return [{ group, name, volume: mapVolume(section, extentBytes, places), because: '' }];
    } catch (error) {
      return [{ group, name, volume: null, because: error instanceof Error ? error.message : '' }];
    }
  });
}

type Piece = { from: number; bytes: number; volume: Volume; at: number };

function mapVolume(
  section: LvmSection,
  extentBytes: number,
  places: Map<string, { volume: Volume; startBytes: number }>,
): Volume {
  const pieces: Piece[] = [];
  for (let number = 1; number <= numberIn(section, 'segment_count'); number += 1) {
    const segment = sectionIn(section, `segment${number}`);
    if (segment?.['type'] !== 'striped' || segment['stripe_count'] !== 1)
      throw damaged(`a segment of the kind ${textIn(segment, 'type')} over ${textIn(segment, 'stripe_count')} is not read here`);
    const [physical, extent] = Array.isArray(segment['stripes']) ? segment['stripes'] : [];
    const place = places.get(String(physical));
    if (place === undefined) throw damaged(`its physical volume ${String(physical)} is not among the disks of this backup`);
    pieces.push({
      from: numberIn(segment, 'start_extent') * extentBytes,
      bytes: numberIn(segment, 'extent_count') * extentBytes,
      volume: place.volume,
      at: place.startBytes + Number(extent) * extentBytes,
    });
  }
  const sizeBytes = pieces.reduce((most, piece) => Math.max(most, piece.from + piece.bytes), 0);
  return { sizeBytes, read: (at, bytes) => readPieces(pieces, at, bytes) };
}

function* readPieces(pieces: readonly Piece[], at: number, bytes: number): Reading<Uint8Array> {
  const result = new Uint8Array(bytes);
  for (let done = 0; done < bytes;) {
    const place = at + done;
    const piece = pieces.find(({ from, bytes: length }) => place >= from && place < from + length);
    if (piece === undefined) throw damaged(`a logical volume has nothing at ${place}`);
    const length = Math.min(bytes - done, piece.from + piece.bytes - place);
    result.set(yield* piece.volume.read(piece.at + place - piece.from, length), done);
    done += length;
  }
  return result;
}
