import { AppError } from '#base/error.ts';

/** Columns of `zfs list` that `parseListing` expects, in this order. */
export const listingColumns = [
  'name',
  'type',
  'guid',
  'createtxg',
  'creation',
  'used',
  'written',
  'origin',
  'userrefs',
  'clones',
  'receive_resume_token',
  'volsize',
  'holdfast:at',
] as const;

/** A snapshot or bookmark of a dataset. `guid` is what makes it the same on two nodes. */
export type Version = {
  kind: 'snapshot' | 'bookmark';
  /** The part after `@` or `#`. */
  name: string;
  guid: string;
  createtxg: number;
  createdAtMs: number;
  /** Bytes written between the version before and this one; 0 for bookmarks. */
  writtenBytes: number;
  /** Clones that rest on it, and holds of anybody. */
  clones: string[];
  holds: number;
  /** The wall clock of the guest's home when it took it; null: not one of ours. */
  pointAtMs: number | null;
};

export type Dataset = {
  name: string;
  type: 'filesystem' | 'volume';
  guid: string;
  usedBytes: number;
  /** Since its newest snapshot. */
  writtenBytes: number;
  /** Whole name of the snapshot that it is a clone of. */
  origin: string | null;
  /** A stream into it was cut and can go on. */
  resumeToken: string | null;
  /** Of a volume. */
  sizeBytes: number | null;
  /** Oldest first, as ZFS made them. */
  versions: Version[];
};

/** Reads `zfs list -Hp -t all` with `listingColumns`. Raises AppError invalid, naming the line. */
export function parseListing(output: string): Dataset[] {
  const datasets = new Map<string, Dataset>();
  const versions: { of: string; version: Version }[] = [];
  for (const line of output.split('\n')) {
    if (line === '') continue;
    const fields = line.split('\t');
    if (fields.length !== listingColumns.length)
      throw new AppError('invalid', `zfs list: ${fields.length} columns in ${JSON.stringify(line)}`);
    const [name = '', type = ''] = fields;
    if (type === 'filesystem' || type === 'volume') datasets.set(name, readDataset(type, fields));
    else if (type === 'snapshot' || type === 'bookmark') versions.push(readVersion(type, fields));
    else throw new AppError('invalid', `zfs list: ${JSON.stringify(type)} is no type that is known (${name})`);
  }
  for (const { of, version } of versions) datasets.get(of)?.versions.push(version);
  for (const dataset of datasets.values()) dataset.versions.sort((a, b) => a.createtxg - b.createtxg);
  return [...datasets.values()];
}

function readDataset(type: Dataset['type'], fields: string[]): Dataset {
  const [name = '', , guid = '', , , used, written, origin, , , token, size] = fields;
  return {
    name,
    type,
    guid,
    usedBytes: number(used),
    writtenBytes: number(written),
    origin: text(origin),
    resumeToken: text(token),
    sizeBytes: text(size) === null ? null : number(size),
    versions: [],
  };
}

function readVersion(kind: Version['kind'], fields: string[]): { of: string; version: Version } {
  const [whole = '', , guid = '', createtxg, creation, , written, , userrefs, clones, , , at] = fields;
  const [of = '', name = ''] = whole.split(kind === 'snapshot' ? '@' : '#');
  const version: Version = {
    kind,
    name,
    guid,
    createtxg: number(createtxg),
    createdAtMs: number(creation) * 1_000,
    writtenBytes: number(written),
    clones: (text(clones) ?? '').split(',').filter((clone) => clone !== ''),
    holds: number(userrefs),
    pointAtMs: text(at) === null ? null : number(at),
  };
  return { of, version };
}

/** ZFS writes `-` where a property does not apply, and nothing where a list is empty. */
function text(value: string | undefined): string | null {
  return value === undefined || value === '-' || value === '' ? null : value;
}

function number(value: string | undefined): number {
  const given = text(value);
  if (given === null) return 0;
  const found = Number(given);
  if (!Number.isFinite(found)) throw new AppError('invalid', `zfs list: ${JSON.stringify(given)} is not a number`);
  return found;
}

/** Reads `zfs get -Hp -o name,property,value`: our properties of each dataset. */
export function parseOwnProperties(output: string): Map<string, Map<string, string>> {
  const found = new Map<string, Map<string, string>>();
  for (const line of output.split('\n')) {
    const [name = '', property = '', ...rest] = line.split('\t');
    if (!property.startsWith('holdfast:')) continue;
    const own = found.get(name) ?? new Map<string, string>();
    own.set(property, rest.join('\t'));
    found.set(name, own);
  }
  return found;
}

/** Reads `zfs holds -H`: a snapshot, a tag and a time in each line. */
export function parseHolds(output: string): { of: string; name: string; tag: string }[] {
  return output.split('\n').flatMap((line) => {
    const [snapshot = '', tag = ''] = line.split('\t');
    const [of = '', name = ''] = snapshot.split('@');
    return name === '' || tag === '' ? [] : [{ of, name, tag }];
  });
}

/** What a token of a cut stream is about: the GUID of the snapshot that was being sent, and the bytes that arrived. */
export type TokenContent = { toGuid: string; toName: string; receivedBytes: number };

/** Reads `zfs send -nvP -t TOKEN`; it prints the token before it finds out whether it can go on. null: it says nothing of that. */
export function parseToken(output: string): TokenContent | null {
  const field = (name: string): string | null => new RegExp(`^\\s*${name} = (.+)$`, 'm').exec(output)?.[1]?.trim() ?? null;
  const [guid, name, bytes] = [field('toguid'), field('toname'), field('bytes')];
  if (guid === null || name === null) return null;
  return { toGuid: BigInt(guid).toString(), toName: name, receivedBytes: Number(bytes ?? 0) };
}
