import { AppError } from '#base/error.ts';

/**
 * Every command that Holdfast ever gives to ZFS. Nothing else can be run: the adapter takes only what is made here, as arguments of a
 * program, never through a shell. No receive is forced (-F), no pool is made or taken over with -f but where a person said so.
 */
export type ZfsCommand = {
  readonly program: 'zfs' | 'zpool';
  readonly args: readonly string[];
  /** For people, when it fails. */
  readonly what: string;
  readonly [made]: true;
};

declare const made: unique symbol;

const datasetPattern = /^[A-Za-z][A-Za-z0-9_.-]*(\/[A-Za-z0-9][A-Za-z0-9_.:-]*)*$/;
const shortPattern = /^[A-Za-z0-9][A-Za-z0-9_.:-]*$/;
const ownPropertyPattern = /^holdfast:[a-z0-9.-]+$/;
const devicePattern = /^\/dev\/[A-Za-z0-9_.:+/-]+$/;
const tokenPattern = /^[0-9a-f]+-[0-9a-f]+-[0-9a-f]+-[0-9a-f]+$/;
/** ZAP_MAXVALUELEN is 8192 with its end. */
const maxValueBytes = 8_191;
const maxNameCharacters = 255;

function make(program: ZfsCommand['program'], what: string, args: readonly string[]): ZfsCommand {
  return { program, args, what } as unknown as ZfsCommand;
}

function check(value: string, pattern: RegExp, kind: string): string {
  if (value.length <= maxNameCharacters && pattern.test(value)) return value;
  throw new AppError('invalid', `${JSON.stringify(value)} is not ${kind}; nothing was run`);
}

const dataset = (name: string): string => check(name, datasetPattern, "a dataset's name");
const short = (name: string): string => check(name, shortPattern, "a snapshot's or bookmark's name");
const device = (path: string): string => check(path, devicePattern, "a device's path");
const snapshot = (of: string, name: string): string => `${dataset(of)}@${short(name)}`;
const bookmark = (of: string, name: string): string => `${dataset(of)}#${short(name)}`;

function ownProperty(name: string, value: string): string {
  if (!ownPropertyPattern.test(name)) throw new AppError('invalid', `${JSON.stringify(name)} is not a property of ours`);
  // eslint-disable-next-line no-control-regex
  if (value.length > maxValueBytes || /[\u0000-\u001f]/.test(value)) {
    throw new AppError('invalid', `the value of ${name} has ${value.length} characters or an unprintable one`);
  }
  return `${name}=${value}`;
}

/** Properties that a disk's dataset changes with its role, and nothing else that could be set. */
export type DiskProperty =
  | { readonly: 'on' | 'off' }
  | { volmode: 'none' | 'dev' }
  | { canmount: 'noauto' | 'off' }
  | { refreservation: 'none' }
  | { mountpoint: string };

function diskProperty(property: DiskProperty): string {
  const [name = '', value = ''] = Object.entries(property)[0] ?? [];
  if (name === 'mountpoint' && value !== 'none') check(value, /^\/[A-Za-z0-9_.:/-]+$/, 'a folder');
  return `${name}=${value}`;
}

/** Everything that lies in and below a guest's dataset; see core/storage/zfs/listing.ts for the columns. */
export function listGuest(name: string, columns: readonly string[]): ZfsCommand {
  return make('zfs', `list ${name}`, ['list', '-Hp', '-r', '-t', 'all', '-o', columns.join(), dataset(name)]);
}

/** Our own properties of all guests below `root` (`depth` 1), or of one guest (0). */
export function readOwnProperties(root: string, depth: 0 | 1): ZfsCommand {
  const args = ['get', '-Hp', '-d', String(depth), '-t', 'filesystem', '-s', 'local', '-o', 'name,property,value', 'all'];
  return make('zfs', `read ${root}`, [...args, dataset(root)]);
}

/** One number of a dataset; `written@SNAPSHOT` takes a whole snapshot name. */
export function readNumber(
  name: string,
  property: 'written' | 'available' | 'volsize',
  since?: { of: string; snapshot: string },
): ZfsCommand {
  const column = since === undefined ? property : `written@${snapshot(since.of, since.snapshot)}`;
  return make('zfs', `read ${property} of ${name}`, ['get', '-Hp', '-o', 'value', column, dataset(name)]);
}

/** Sets our properties in one transaction: all of them or none. */
export function setOwnProperties(name: string, values: Record<string, string>): ZfsCommand {
  const given = Object.entries(values).map(([property, value]) => ownProperty(property, value));
  return make('zfs', `write the manifest of ${name}`, ['set', ...given, dataset(name)]);
}

export function setDiskProperties(name: string, properties: DiskProperty[]): ZfsCommand {
  return make('zfs', `change ${name}`, ['set', ...properties.map(diskProperty), dataset(name)]);
}

/** A dataset that only holds others. `isUnfinished`: it is marked as garbage until a manifest is written. */
export function createFolder(name: string, options: { parents: boolean; isUnfinished: boolean }): ZfsCommand {
  const given = [...(options.parents ? ['-p'] : []), ...(options.isUnfinished ? ['-o', 'holdfast:unfinished=yes'] : [])];
  return make('zfs', `create ${name}`, ['create', ...given, '-o', 'canmount=off', '-o', 'mountpoint=none', dataset(name)]);
}

/** A guest's disk as a device: sparse, not visible before it is opened. */
export function createVolume(name: string, sizeBytes: number, blockBytes: number): ZfsCommand {
  const options = ['-s', '-V', String(sizeBytes), '-o', `volblocksize=${blockBytes}`, '-o', 'volmode=none'];
  return make('zfs', `create ${name}`, ['create', ...options, dataset(name)]);
}

/** A file system for the one file that is a guest's disk; `-u`: the adapter mounts it when it is needed. */
export function createFileDisk(name: string, recordBytes: number): ZfsCommand {
  const options = ['-o', `recordsize=${recordBytes}`, '-o', 'canmount=noauto', '-o', 'mountpoint=none', '-o', 'xattr=sa'];
  return make('zfs', `create ${name}`, ['create', '-u', ...options, dataset(name)]);
}

/** A volume grows or shrinks; what lies past a smaller size is gone. Only for one with new content that no guest has seen. */
export function resizeVolume(name: string, sizeBytes: number): ZfsCommand {
  return make('zfs', `resize ${name}`, ['set', `volsize=${sizeBytes}`, dataset(name)]);
}

export function mountDataset(name: string): ZfsCommand {
  return make('zfs', `mount ${name}`, ['mount', dataset(name)]);
}

export function unmountDataset(name: string): ZfsCommand {
  return make('zfs', `unmount ${name}`, ['unmount', dataset(name)]);
}

/** One snapshot of all these datasets at the same instant (one transaction group). */
export function takeSnapshot(datasets: readonly string[], name: string, properties: Record<string, string>): ZfsCommand {
  const given = Object.entries(properties).flatMap(([property, value]) => ['-o', ownProperty(property, value)]);
  return make('zfs', `take ${name}`, ['snapshot', ...given, ...datasets.map((of) => snapshot(of, name))]);
}

/** Removes snapshots of one dataset; refused by ZFS while a clone or a hold needs one. Never recursive. */
export function destroySnapshots(of: string, names: readonly string[]): ZfsCommand {
  const [first = '', ...rest] = names;
  return make('zfs', `remove snapshots of ${of}`, ['destroy', [snapshot(of, first), ...rest.map(short)].join()]);
}

export function takeBookmark(of: string, name: string, as: string): ZfsCommand {
  return make('zfs', `bookmark ${of}@${name}`, ['bookmark', snapshot(of, name), bookmark(of, as)]);
}

export function destroyBookmark(of: string, name: string): ZfsCommand {
  return make('zfs', `remove ${of}#${name}`, ['destroy', bookmark(of, name)]);
}

/** Removes a guest, or a disk of a tail, with its snapshots; refused by ZFS while a clone outside needs one. */
export function destroyDataset(name: string): ZfsCommand {
  if (!/\/vm-\d+(\/(left-behind-g\d+(-\d+)?|replaced-[A-Za-z0-9-]+|(look|next)-\d+)\.[a-z][a-z0-9]*)?$/.test(name)) {
    throw new AppError('invalid', `${name} is neither a guest nor a disk of a tail; nothing was removed`);
  }
  return make('zfs', `remove ${name}`, ['destroy', '-r', dataset(name)]);
}

export function holdSnapshots(of: readonly string[], name: string, tag: string): ZfsCommand {
  return make('zfs', `hold ${name}`, ['hold', short(tag), ...of.map((each) => snapshot(each, name))]);
}

/** Who holds these snapshots; see core/storage/zfs/listing.ts for what it prints. */
export function listHolds(snapshots: readonly { of: string; name: string }[]): ZfsCommand {
  return make('zfs', `read who holds ${snapshots[0]?.of}`, [
    'holds',
    '-H',
    ...snapshots.map(({ of, name }) => snapshot(of, name)),
  ]);
}

export function releaseSnapshots(snapshots: readonly { of: string; name: string }[], tag: string): ZfsCommand {
  return make('zfs', `let go of ${snapshots[0]?.of}`, [
    'release',
    short(tag),
    ...snapshots.map(({ of, name }) => snapshot(of, name)),
  ]);
}

/** Puts a copy back to a point; only for what arrived after it and was never a whole point (see core/storage/zfs/align-plan.ts). */
export function rollbackTo(of: string, name: string): ZfsCommand {
  return make('zfs', `put ${of} back to ${name}`, ['rollback', '-r', snapshot(of, name)]);
}

/** A file system is not mounted anew where it goes; of a volume ZFS refuses to hear of that. */
export function renameDataset(from: string, to: string, type: 'volume' | 'filesystem'): ZfsCommand {
  const still = type === 'filesystem' ? ['-u'] : [];
  return make('zfs', `set ${from} aside`, ['rename', ...still, dataset(from), dataset(to)]);
}

export function cloneSnapshot(of: string, name: string, to: string, properties: DiskProperty[]): ZfsCommand {
  const given = properties.flatMap((property) => ['-o', diskProperty(property)]);
  return make('zfs', `clone ${of}@${name}`, ['clone', ...given, snapshot(of, name), dataset(to)]);
}

export function promoteClone(name: string): ZfsCommand {
  return make('zfs', `make ${name} the owner of its past`, ['promote', dataset(name)]);
}

/**
 * A stream to one point. Flags as of zfs-send(8): large blocks, embedded data, compressed as on disk; the same for the whole life of a copy.
 * `base`: a snapshot (`@name`) or bookmark (`#name`) of the same dataset; null: everything.
 */
export function sendPoint(of: string, to: string, base: { kind: 'snapshot' | 'bookmark'; name: string } | null): ZfsCommand {
  const from = base === null ? [] : ['-i', base.kind === 'snapshot' ? `@${short(base.name)}` : `#${short(base.name)}`];
  return make('zfs', `send ${of}@${to}`, ['send', '-Lec', ...from, snapshot(of, to)]);
}

/** Goes on where a stream was cut; the token says with which flags. */
export function sendRest(token: string): ZfsCommand {
  return make('zfs', 'send the rest of a stream', ['send', '-t', checkToken(token)]);
}

/** What a token says, without sending anything. */
export function explainToken(token: string): ZfsCommand {
  return make('zfs', 'read a token', ['send', '-nvP', '-t', checkToken(token)]);
}

function checkToken(token: string): string {
  if (token.length <= 4_096 && tokenPattern.test(token)) return token;
  throw new AppError('invalid', 'the token of a cut stream is none; nothing was run');
}

/** Takes in a stream: what was cut stays (-s), nothing is mounted (-u), nothing on this node sees a device. */
export function receivePoint(into: string, options: { isFirst: boolean; kind: 'volume' | 'file' }): ZfsCommand {
  const quiet =
    options.kind === 'volume'
      ? ['-o', 'volmode=none', '-o', 'refreservation=none']
      : ['-o', 'canmount=noauto', '-o', 'mountpoint=none'];
  const first = options.isFirst ? ['-o', 'readonly=on', ...quiet] : [];
  return make('zfs', `receive into ${into}`, ['receive', '-s', '-u', ...first, dataset(into)]);
}

/** Forgets what a cut stream left. */
export function receiveAbort(into: string): ZfsCommand {
  return make('zfs', `forget the cut stream into ${into}`, ['receive', '-A', dataset(into)]);
}

export function listPools(): ZfsCommand {
  return make('zpool', 'list the pools', ['list', '-Hp', '-o', 'name,size,allocated,free,capacity,fragmentation,health,guid']);
}

export function readPoolStatus(pool: string): ZfsCommand {
  return make('zpool', `read the state of ${pool}`, ['status', '-P', '-p', dataset(pool)]);
}

/** The sectors that a pool was made for, as a power of two; 0: it chose them by itself. */
export function readAshift(pool: string): ZfsCommand {
  return make('zpool', `read the sectors of ${pool}`, ['get', '-Hp', '-o', 'value', 'ashift', dataset(pool)]);
}

/** Name and block of every volume in a pool. */
export function listVolumeBlocks(pool: string): ZfsCommand {
  return make('zfs', `list the volumes of ${pool}`, [
    'list',
    '-Hp',
    '-r',
    '-t',
    'volume',
    '-o',
    'name,volblocksize',
    dataset(pool),
  ]);
}

/** Every event from now on, one line each, for ever; with the device it is about. */
export function followEvents(): ZfsCommand {
  return make('zpool', 'follow the events of the pools', ['events', '-H', '-f']);
}

/** A RAID-Z1 pool from whole disks. Without -f: a disk that holds anything is refused by ZFS as well. */
export function createPool(pool: string, disks: readonly string[]): ZfsCommand {
  const options = [
    '-o',
    'ashift=12',
    '-o',
    'autotrim=on',
    '-O',
    'compression=lz4',
    '-O',
    'atime=off',
    '-O',
    'canmount=off',
    '-O',
    'mountpoint=none',
  ];
  return make('zpool', `create ${pool}`, ['create', ...options, dataset(pool), 'raidz1', ...disks.map(device)]);
}

/** `takeOver`: a person says that the machine which used it last is not running. */
export function importPool(pool: string, options: { takeOver: boolean }): ZfsCommand {
  return make('zpool', `import ${pool}`, ['import', ...(options.takeOver ? ['-f'] : []), '-d', '/dev/disk/by-id', dataset(pool)]);
}

/** The pools that could be imported. */
export function listImportable(): ZfsCommand {
  return make('zpool', 'look for pools', ['import', '-d', '/dev/disk/by-id']);
}

/** `old`: a path as `zpool status -P` tells it, or the number that stands for a disk that is gone. */
export function replaceDisk(pool: string, old: string, next: string): ZfsCommand {
  // A whole disk is known by its own name, not by that of the partition that ZFS made on it.
  const gone = /^\d+$/.test(old) ? old : device(old).replace(/-part1$/, '');
  return make('zpool', `replace ${old} in ${pool}`, ['replace', dataset(pool), gone, device(next)]);
}

export function startScrub(pool: string): ZfsCommand {
  return make('zpool', `scrub ${pool}`, ['scrub', dataset(pool)]);
}

export function stopScrub(pool: string): ZfsCommand {
  return make('zpool', `stop the scrub of ${pool}`, ['scrub', '-s', dataset(pool)]);
}

/** After a disk came back, or its fault was mended: count its errors from zero. */
export function clearErrors(pool: string): ZfsCommand {
  return make('zpool', `clear the errors of ${pool}`, ['clear', dataset(pool)]);
}
