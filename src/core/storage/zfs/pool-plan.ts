import { formatErrorChain } from '#base/error.ts';
import { formatSize } from '#core/text/size.ts';
import { parsePoolName } from './names.ts';

/** What the machine says of a block device that is to become part of a pool. */
export type DiskFacts = {
  /** As it was named, and the name under /dev/disk/by-id that lasts (null: none). */
  asked: string;
  byId: string | null;
  /** e.g. /dev/sda; null: there is no such device. */
  device: string | null;
  kind: 'disk' | 'partition' | 'other';
  sizeBytes: number;
  serial: string | null;
  physicalSectorBytes: number;
  isReadOnly: boolean;
  /** Where it or a part of it is mounted, `[SWAP]` among them. */
  mounts: string[];
  partitions: string[];
  /** What is written on it or a part of it: `zfs_member tank`, `ext4`, `linux_raid_member` ... */
  signatures: string[];
  /** Devices built on it (RAID, LVM, encryption). */
  holders: string[];
};

export type PoolFacts = {
  /** null: OpenZFS works here; else why it does not. */
  trouble: string | null;
  /** Pools that are imported now, and those that could be. */
  pools: string[];
  importable: string[];
};

export type PoolPlan = {
  pool: string;
  disks: string[];
  /** Block of a guest's disk, so that hardly any of it is padding. */
  blockBytes: number;
  /** Room for guests' data after parity and padding, before compression. */
  usableBytes: number;
  /** Things a person should know, none of which is in the way. */
  notes: string[];
};

const minDisks = 3;
const maxDisks = 9;
const minDiskBytes = 2 ** 30;
const sectorBytes = 4_096;
/** The pool is as small as its smallest disk allows; more difference than this is a slip of whoever plugged them in. */
const maxSizeDifference = 0.1;
/** Kept back by ZFS for itself (spa_slop_shift 5). */
const slop = 1 / 32;

/**
 * Plans a RAID-Z1 pool of whole disks. Every problem is told at once, before anything is written; then there is no plan.
 */
export function planPool(
  name: string,
  disks: readonly DiskFacts[],
  facts: PoolFacts,
): { plan: PoolPlan | null; problems: string[] } {
  const problems = [...findPoolProblems(name, facts), ...findLayoutProblems(disks), ...disks.flatMap(findDiskProblems)];
  if (problems.length > 0) return { plan: null, problems };
  const smallest = Math.min(...disks.map((disk) => disk.sizeBytes));
  const largest = Math.max(...disks.map((disk) => disk.sizeBytes));
  const blockBytes = chooseBlockBytes(disks.length);
  const usableBytes = Math.floor((smallest * (disks.length - 1) * (1 - slop)) / paddingRatio(disks.length, blockBytes));
  const notes = [
    'one disk of these may fail; RAID-Z1 writes as fast as one disk alone where writes are small and scattered',
    ...(largest > smallest
      ? [`${formatSize((largest - smallest) * disks.length)} at most stay unused: the smallest disk decides`]
      : []),
  ];
  return { plan: { pool: name, disks: disks.map((disk) => disk.byId ?? ''), blockBytes, usableBytes, notes }, problems };
}

function findPoolProblems(name: string, facts: PoolFacts): string[] {
  const problems: string[] = [];
  try {
    parsePoolName(name, 'pool');
  } catch (error) {
    problems.push(formatErrorChain(error));
  }
  if (facts.trouble !== null) problems.push(`OpenZFS does not work on this machine: ${facts.trouble}`);
  if (facts.pools.includes(name)) problems.push(`a pool ${name} is there already; take another name`);
  if (facts.importable.includes(name))
    problems.push(`disks of another pool ${name} are plugged in; import it, or take another name`);
  return problems;
}

function findLayoutProblems(disks: readonly DiskFacts[]): string[] {
  const problems: string[] = [];
  if (disks.length < minDisks)
    problems.push(`RAID-Z1 takes ${minDisks} disks or more, ${disks.length} ${disks.length === 1 ? 'is' : 'are'} named`);
  if (disks.length > maxDisks) problems.push(`${disks.length} disks are too many for one parity; ${maxDisks} at most`);
  for (const [index, disk] of disks.entries()) {
    const same = disks.slice(0, index).find((other) => disk.device !== null && isSameDisk(disk, other));
    if (same !== undefined) problems.push(`${disk.asked} and ${same.asked} are one and the same disk`);
  }
  const sizes = disks.filter((disk) => disk.device !== null).map((disk) => disk.sizeBytes);
  const [smallest, largest] = [Math.min(...sizes), Math.max(...sizes)];
  if (sizes.length > 1 && smallest < largest * (1 - maxSizeDifference)) {
    problems.push(
      `the disks differ too much in size (${formatSize(smallest)} to ${formatSize(largest)}): the smallest would decide`,
    );
  }
  return problems;
}

function isSameDisk(a: DiskFacts, b: DiskFacts): boolean {
  return a.device === b.device || (a.serial !== null && a.serial === b.serial);
}

/** All that stands against one disk in a pool, whether of a new one or in the place of another. */
export function findDiskProblems(disk: DiskFacts): string[] {
  const say = (what: string): string => `${disk.asked}: ${what}`;
  if (disk.device === null) return [say('there is no such device')];
  const problems: string[] = [];
  if (disk.kind !== 'disk')
    problems.push(say(`is a ${disk.kind === 'partition' ? 'partition' : 'device of another kind'}; name the whole disk`));
  if (disk.byId === null)
    problems.push(say('has no name under /dev/disk/by-id, by which it would be found again after a change of cables'));
  if (disk.sizeBytes < minDiskBytes)
    problems.push(say(`has ${formatSize(disk.sizeBytes)}; ${formatSize(minDiskBytes)} is the least`));
  if (disk.physicalSectorBytes > sectorBytes)
    problems.push(say(`has sectors of ${disk.physicalSectorBytes} bytes; ${sectorBytes} is the most`));
  if (disk.isReadOnly) problems.push(say('is read-only'));
  if (disk.mounts.length > 0) problems.push(say(`is in use (${disk.mounts.join(', ')})`));
  if (disk.holders.length > 0) problems.push(say(`is part of ${disk.holders.join(', ')}`));
  if (disk.partitions.length > 0)
    problems.push(
      say(`has partitions (${disk.partitions.join(', ')}); if nothing on them is needed: wipefs --all ${disk.device}`),
    );
  if (disk.signatures.length > 0 && disk.partitions.length === 0) {
    problems.push(say(`holds something (${disk.signatures.join(', ')}); if it is not needed: wipefs --all ${disk.device}`));
  } else if (disk.signatures.some((signature) => signature.startsWith('zfs_member'))) {
    problems.push(say(`belongs to another pool (${disk.signatures.filter((s) => s.startsWith('zfs_member')).join(', ')})`));
  }
  return problems;
}

/** Block of a guest's disk for a RAID-Z1 of so many disks: small for small writes, large enough that padding stays below a fifth. */
export function chooseBlockBytes(disks: number): number {
  if (disks <= 3) return 16_384;
  return disks <= 6 ? 32_768 : 65_536;
}

/**
 * Space that blocks of this size take on RAID-Z1, against what parity alone would take: each is written in sectors of 4 KiB with one parity for every
 * row, and rounded up to a multiple of two sectors (vdev_raidz_asize in OpenZFS).
 */
export function paddingRatio(disks: number, blockBytes: number): number {
  const data = Math.ceil(blockBytes / sectorBytes);
  const withParity = data + Math.ceil(data / (disks - 1));
  const allocated = Math.ceil(withParity / 2) * 2;
  return allocated / ((data * disks) / (disks - 1));
}
