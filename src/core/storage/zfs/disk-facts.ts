import { AppError } from '#base/error.ts';
import type { DiskFacts } from './pool-plan.ts';

/** Columns of `lsblk` that `parseBlockDevices` expects. */
export const lsblkColumns = 'NAME,PATH,TYPE,SIZE,SERIAL,PHY-SEC,RO,MOUNTPOINTS,FSTYPE,LABEL,PTTYPE';

/** A block device as the kernel has it, with what is built on it. */
export type BlockDevice = {
  path: string;
  type: string;
  sizeBytes: number;
  serial: string | null;
  physicalSectorBytes: number;
  isReadOnly: boolean;
  mounts: string[];
  fileSystem: string | null;
  label: string | null;
  partitionTable: string | null;
  children: BlockDevice[];
};

type LsblkEntry = Record<string, unknown> & { children?: LsblkEntry[] };

/** Reads `lsblk --json --bytes --output lsblkColumns` (lsblk(8)). Raises AppError invalid when it is something else. */
export function parseBlockDevices(output: string): BlockDevice[] {
  let found: { blockdevices?: LsblkEntry[] };
  try {
    found = JSON.parse(output) as { blockdevices?: LsblkEntry[] };
  } catch (cause) {
    throw new AppError('invalid', 'lsblk: its answer is not JSON', { cause });
  }
  if (!Array.isArray(found.blockdevices)) throw new AppError('invalid', 'lsblk: its answer lists no devices');
  return found.blockdevices.map(readDevice);
}

function readDevice(entry: LsblkEntry): BlockDevice {
  const text = (column: string): string | null =>
    typeof entry[column] === 'string' && entry[column] !== '' ? entry[column] : null;
  const mounts = Array.isArray(entry['mountpoints']) ? entry['mountpoints'] : [];
  return {
    path: text('path') ?? '',
    type: text('type') ?? '',
    sizeBytes: Number(entry['size'] ?? 0),
    serial: text('serial'),
    physicalSectorBytes: Number(entry['phy-sec'] ?? 0),
    isReadOnly: entry['ro'] === true || entry['ro'] === '1',
    mounts: mounts.filter((mount): mount is string => typeof mount === 'string'),
    fileSystem: text('fstype'),
    label: text('label'),
    partitionTable: text('pttype'),
    children: (entry.children ?? []).map(readDevice),
  };
}

/**
 * What is said of one disk that a person named. `device`: what the name leads to, null: nothing; `byId`: names under /dev/disk/by-id and the devices that
 * they lead to.
 */
export function describeDisk(
  asked: string,
  device: string | null,
  devices: readonly BlockDevice[],
  byId: ReadonlyMap<string, string>,
): DiskFacts {
  const found = device === null ? undefined : listAll(devices).find((entry) => entry.path === device);
  const nothing = { sizeBytes: 0, serial: null, physicalSectorBytes: 0, isReadOnly: false, mounts: [], partitions: [] };
  if (found === undefined) return { asked, byId: null, device: null, kind: 'other', ...nothing, signatures: [], holders: [] };
  const partitions = found.children.filter((child) => child.type === 'part');
  const below = [found, ...partitions];
  return {
    asked,
    byId: chooseName(asked, found.path, byId),
    device: found.path,
    kind: found.type === 'disk' ? 'disk' : found.type === 'part' ? 'partition' : 'other',
    sizeBytes: found.sizeBytes,
    serial: found.serial,
    physicalSectorBytes: found.physicalSectorBytes,
    isReadOnly: found.isReadOnly,
    mounts: below.flatMap((entry) => entry.mounts),
    partitions: partitions.map((entry) => entry.path),
    signatures: below.flatMap((entry) =>
      entry.fileSystem === null ? [] : [`${entry.fileSystem}${entry.label === null ? '' : ` ${entry.label}`}`],
    ),
    holders: below.flatMap((entry) => entry.children.filter((child) => child.type !== 'part').map((child) => child.path)),
  };
}

/** The name that was asked for when it lasts; else the shortest that does and that names a disk rather than where it is plugged in. */
function chooseName(asked: string, path: string, byId: ReadonlyMap<string, string>): string | null {
  const names = [...byId].filter(([, leadsTo]) => leadsTo === path).map(([name]) => name);
  if (names.includes(asked)) return asked;
  const ranked = names.toSorted((a, b) => rank(a) - rank(b) || a.length - b.length || a.localeCompare(b));
  return ranked[0] ?? null;
}

const rank = (name: string): number => (/\/(wwn|nvme-(eui|nvme|uuid))[.-]/.test(name) ? 1 : 0);

function listAll(devices: readonly BlockDevice[]): BlockDevice[] {
  return devices.flatMap((device) => [device, ...listAll(device.children)]);
}
