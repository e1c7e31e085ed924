import { AppError } from '#base/error.ts';
import { parseDiskName, parseNodeName, parseVmid } from '#base/ids.ts';
import type { ReplicaPoint } from '#core/guest/guest-record.ts';

/**
 * The names of everything that Holdfast keeps in a pool.
 *
 *   tank/holdfast                                root, given in the node's configuration
 *   tank/holdfast/vm-100                         one guest: its properties hold the copy's manifest
 *   tank/holdfast/vm-100/disk0                   a disk, with snapshots @hf-GENERATION-SEQ
 *   tank/holdfast/vm-100/disk0#t-NODE-GEN-SEQ    what a node is known to hold, after the snapshot has gone
 *   tank/holdfast/vm-100/disk0#p-GEN-SEQ         a point that was held here and that another node still holds
 *   tank/holdfast/vm-100/left-behind-g1.disk0    a disk of a left-behind tail; replaced-ID.disk0: of one that a restore replaced
 *   tank/holdfast/vm-100/next-N.disk0            a disk that is being written anew, garbage unless the manifest says `swapping`
 *   tank/holdfast/vm-100/look-N.disk0            a clone of something that is being read
 */
const componentPattern = /^[A-Za-z0-9][A-Za-z0-9_.:-]*$/;
const poolPattern = /^[A-Za-z][A-Za-z0-9_.-]*$/;
const reservedPools = /^(mirror|raidz|draid|spare|log|special|dedup|cache|replacing|c[0-9])/;
const tailText = 'left-behind-g\\d+(?:-\\d+)?|replaced-[A-Za-z0-9-]{1,60}';
const tailPattern = new RegExp(`^(?:${tailText})$`);
const childPattern = new RegExp(`^(?:(${tailText}|(?:next|look)-\\d+)\\.)?([a-z][a-z0-9]{0,15})$`);
/** ZFS_MAX_DATASET_NAME_LEN is 256 with everything; our own parts take up to 70 of it. */
const maxRootCharacters = 160;

/** Returns `value` as a pool's name. Raises AppError invalid, naming `field` (rules of zpool-create(8)). */
export function parsePoolName(value: unknown, field = 'pool'): string {
  if (typeof value === 'string' && value.length <= 64 && poolPattern.test(value) && !reservedPools.test(value)) return value;
  throw new AppError(
    'invalid',
    `${field}: ${JSON.stringify(value)} is not a pool's name (a letter, then letters, digits, _ . -)`,
  );
}

/** Returns `value` as the root dataset: a pool and at least one name below it. Raises AppError invalid, naming `field`. */
export function parseRootDataset(value: unknown, field = 'dataset'): string {
  const [pool, ...below] = typeof value === 'string' ? value.split('/') : [];
  const isProper = below.length > 0 && below.every((part) => componentPattern.test(part));
  if (typeof value === 'string' && isProper && value.length <= maxRootCharacters) {
    parsePoolName(pool, field);
    return value;
  }
  throw new AppError('invalid', `${field}: ${JSON.stringify(value)} is not a dataset below a pool, such as tank/holdfast`);
}

/** The pool that a dataset lies in. */
export function poolOf(dataset: string): string {
  return dataset.split('/')[0] ?? '';
}

export function guestDataset(root: string, vmid: number): string {
  return `${root}/vm-${parseVmid(vmid)}`;
}

export function diskDataset(root: string, vmid: number, disk: string): string {
  return `${guestDataset(root, vmid)}/${parseDiskName(disk)}`;
}

export function tailDataset(root: string, vmid: number, tail: string, disk: string): string {
  if (!isTailName(tail)) throw new AppError('invalid', `tail: ${JSON.stringify(tail)} is not the name of a tail`);
  return `${guestDataset(root, vmid)}/${tail}.${parseDiskName(disk)}`;
}

/**
 * A dataset that does not live long: `look`, a clone while a snapshot is read; `next`, a disk with new content until it takes the place of the one that
 * it is a clone of. Its number is used once: udev may take the device of an earlier one of the same name away when this one is there.
 */
export function passingDataset(root: string, vmid: number, disk: string, use: 'look' | 'next', number: number): string {
  return `${guestDataset(root, vmid)}/${use}-${number}.${parseDiskName(disk)}`;
}

/** The snapshot on which the clones of a replacement rest, whose old content is kept as `tail`. */
export function replacedBase(tail: string): string {
  return `before-${tail}`;
}

/** Whether a snapshot was made by a replacement: what its clones rest on, or the last look at what it set aside. */
export function isReplacementSnapshot(name: string): boolean {
  return /^(before-)?replaced-/.test(name);
}

export function isTailName(name: unknown): boolean {
  return typeof name === 'string' && tailPattern.test(name);
}

/** The number in `.../vm-100`; null for any other dataset. */
export function vmidOf(root: string, dataset: string): number | null {
  const found = dataset.startsWith(`${root}/vm-`) ? /^\d+$/.exec(dataset.slice(root.length + 4)) : null;
  return found === null ? null : Number(found[0]);
}

export type GuestChild = { disk: string; of: 'live' | 'next' | 'look' } | { disk: string; of: 'tail'; tail: string };

/** What a dataset below a guest's is; null: nothing of ours. */
export function parseGuestChild(guest: string, dataset: string): GuestChild | null {
  const name = dataset.startsWith(`${guest}/`) ? dataset.slice(guest.length + 1) : '';
  const found = childPattern.exec(name);
  if (found === null) return null;
  const [, prefix, disk = ''] = found;
  if (prefix === undefined) return { disk, of: 'live' };
  if (isTailName(prefix)) return { disk, of: 'tail', tail: prefix };
  return { disk, of: prefix.startsWith('next') ? 'next' : 'look' };
}

export function snapshotName(point: ReplicaPoint): string {
  return `hf-${point.generation}-${point.seq}`;
}

/** The point of a snapshot's name; null when it is not one of our points. */
export function parseSnapshotName(name: string): ReplicaPoint | null {
  const found = /^hf-(\d+)-(\d+)$/.exec(name);
  return found === null ? null : { generation: Number(found[1]), seq: Number(found[2]) };
}

/** The bookmark of what a target is known to hold. */
export function targetBookmark(node: string, point: ReplicaPoint): string {
  return `t-${parseNodeName(node)}-${point.generation}-${point.seq}`;
}

export function parseTargetBookmark(name: string): { node: string; point: ReplicaPoint } | null {
  const found = /^t-(.+)-(\d+)-(\d+)$/.exec(name);
  if (found === null) return null;
  return { node: found[1] ?? '', point: { generation: Number(found[2]), seq: Number(found[3]) } };
}

/** The bookmark that stays of a point which another node still holds. */
export function pointBookmark(point: ReplicaPoint): string {
  return `p-${point.generation}-${point.seq}`;
}

export function parsePointBookmark(name: string): ReplicaPoint | null {
  const found = /^p-(\d+)-(\d+)$/.exec(name);
  return found === null ? null : { generation: Number(found[1]), seq: Number(found[2]) };
}

/** The name under which the writes of a former primary of `generation` are kept; with `seq`: points of a replica that its new home lacks. */
export function zfsTailName(generation: number, seq: number | null): string {
  return seq === null ? `left-behind-g${generation}` : `left-behind-g${generation}-${seq}`;
}
