import { formatErrorChain, isAppError } from '#base/error.ts';
import { openExt4 } from './ext4.ts';
import type { FileSystem, OpenFileSystem } from './file-system.ts';
import { listLogicalVolumes, readPhysicalVolume, type PhysicalVolume } from './lvm.ts';
import { readPartitions } from './partition-table.ts';
import { openNtfs } from './ntfs.ts';
import { openXfs } from './xfs.ts';
import { partOf, wholeDisk, type Reading, type Volume } from './reading.ts';

/** A volume of a guest, as people name it: `disk0`, `disk0/1` (a partition), `lvm/GROUP/NAME`. */
export type GuestVolume = {
  name: string;
  sizeBytes: number;
  /** null: none that is read here. */
  fileSystem: FileSystem | null;
  /** What it is, or why it cannot be read. */
  because: string;
};

const fileSystems: readonly OpenFileSystem[] = [openExt4, openXfs, openNtfs];

/** Everything on a guest's disks that may hold files. One that cannot be read is told with why, and hides no other. */
export function* findVolumes(disks: readonly { name: string; sizeBytes: number }[]): Reading<GuestVolume[]> {
  const found: GuestVolume[] = [];
  const physical: PhysicalVolume[] = [];
  for (const { name, sizeBytes } of disks) {
    const disk = wholeDisk(name, sizeBytes);
    const whole = yield* lookAt(name, disk, physical);
    const isPlain = whole.fileSystem !== null || whole.because !== nothingKnown;
    const partitions = isPlain ? [] : yield* readPartitions(disk);
    if (partitions.length === 0) found.push(whole);
    for (const { number, at, sizeBytes: bytes } of partitions) {
      found.push(yield* lookAt(`${name}/${number}`, partOf(disk, at, bytes), physical));
    }
  }
  for (const { group, name, volume, because } of listLogicalVolumes(physical)) {
    const path = `lvm/${group}/${name}`;
    found.push(volume === null ? { name: path, sizeBytes: 0, fileSystem: null, because } : yield* lookAt(path, volume, []));
  }
  return found;
}

const nothingKnown = 'nothing that is known here';

function* lookAt(name: string, volume: Volume, physical: PhysicalVolume[]): Reading<GuestVolume> {
  const { sizeBytes } = volume;
  try {
    for (const open of fileSystems) {
      const fileSystem = yield* open(volume);
      if (fileSystem !== null) return { name, sizeBytes, fileSystem, because: fileSystem.kind };
    }
    const own = yield* readPhysicalVolume(volume);
    if (own !== null) physical.push(own);
    return { name, sizeBytes, fileSystem: null, because: own === null ? nothingKnown : 'a physical volume of LVM' };
  } catch (error) {
    if (!isAppError(error, 'invalid', 'unsupported')) throw error;
    return { name, sizeBytes, fileSystem: null, because: formatErrorChain(error) };
  }
}
