import { AppError } from '#base/error.ts';

/** A device in a pool, or a group of them. Errors are counts since they were last cleared. */
export type PoolDevice = {
  name: string;
  depth: number;
  state: string;
  readErrors: number;
  writeErrors: number;
  checksumErrors: number;
  note: string | null;
};

/** A scrub or resilver. `progress` from 0 to 1; 1 when it has ended. */
export type PoolScan = {
  kind: 'scrub' | 'resilver';
  state: 'running' | 'finished' | 'cancelled' | 'paused';
  progress: number;
  repaired: string | null;
  errors: number | null;
  /** As zpool prints it, in the machine's own time. */
  when: string | null;
};

export type PoolStatus = {
  name: string;
  state: string;
  /** ZFS's own words, when something is wrong. */
  status: string | null;
  action: string | null;
  scan: PoolScan | null;
  /** The pool itself first, then what it is made of, in order. */
  devices: PoolDevice[];
  /** Files or volumes with lost data; null: none known. */
  lostData: string | null;
};

/** One line of `zpool list -Hp` with the columns of `listPools`. */
export type PoolUse = {
  name: string;
  sizeBytes: number;
  allocatedBytes: number;
  usedPercent: number;
  health: string;
  guid: string;
};

/** Reads `zpool list`. Raises AppError invalid, naming the line. */
export function parsePoolList(output: string): PoolUse[] {
  return lines(output).map((line) => {
    const [name = '', size, allocated, , capacity, , health = '', guid = ''] = line.split('\t');
    const [sizeBytes, allocatedBytes, percent] = [size, allocated, capacity].map(Number);
    if (guid === '' || sizeBytes === undefined || !Number.isFinite(sizeBytes)) {
      // A pool that is suspended or lost has `-` for its sizes.
      if (guid !== '') return { name, sizeBytes: 0, allocatedBytes: 0, usedPercent: 0, health, guid };
      throw new AppError('invalid', `zpool list: ${JSON.stringify(line)} makes no sense`);
    }
    return { name, sizeBytes, allocatedBytes: allocatedBytes ?? 0, usedPercent: percent ?? 0, health, guid };
  });
}

/** Reads `zpool status -P -p POOL` (zpool-status(8)). Raises AppError invalid when there is no pool in it. */
export function parsePoolStatus(output: string): PoolStatus {
  const sections = readSections(output);
  const name = sections.get('pool');
  if (name === undefined) throw new AppError('invalid', `zpool status: no pool in ${JSON.stringify(output.slice(0, 200))}`);
  const errors = sections.get('errors') ?? null;
  return {
    name,
    state: sections.get('state') ?? 'UNKNOWN',
    status: oneLine(sections.get('status')),
    action: oneLine(sections.get('action')),
    scan: readScan(sections.get('scan') ?? ''),
    devices: readDevices(sections.get('config') ?? ''),
    lostData: errors === null || errors.startsWith('No known data errors') ? null : oneLine(errors),
  };
}

/** The text below each heading, without its indentation but with its lines. */
function readSections(output: string): Map<string, string> {
  const sections = new Map<string, string>();
  let current: string | null = null;
  for (const line of output.split('\n')) {
    const heading = /^ {0,3}?\s{0,8}(pool|state|status|action|see|scan|scrub|remove|config|errors|checkpoint|dedup): ?(.*)$/.exec(
      line,
    );
    if (heading !== null && !line.startsWith('\t')) {
      current = heading[1] ?? '';
      sections.set(current, heading[2]?.trim() ?? '');
    } else if (current !== null) {
      sections.set(current, `${sections.get(current) ?? ''}\n${line}`);
    }
  }
  return new Map([...sections].map(([key, value]) => [key, key === 'config' ? value : value.trim()]));
}

function readDevices(config: string): PoolDevice[] {
  const devices: PoolDevice[] = [];
  for (const line of config.split('\n')) {
    // Two blanks more for each level, after one tab.
    const found = /^\t( *)(\S+)\s+([A-Z]+)(?:\s+(\S+)\s+(\S+)\s+(\S+))?(?:\s+(.*))?$/.exec(line);
    if (found === null || found[2] === 'NAME') continue;
    const [, indent = '', name = '', state = '', read, write, checksum, note] = found;
    const counts = [read, write, checksum].map((value) => Number(value ?? 0));
    const [readErrors = 0, writeErrors = 0, checksumErrors = 0] = counts.map((value) => (Number.isFinite(value) ? value : 0));
    devices.push({ name, depth: indent.length / 2, state, readErrors, writeErrors, checksumErrors, note: oneLine(note) });
  }
  return devices;
}

function readScan(text: string): PoolScan | null {
  const kind = /^(scrub|resilver)/.exec(text)?.[1] ?? (text.startsWith('resilvered') ? 'resilver' : null);
  if (kind !== 'scrub' && kind !== 'resilver') return null;
  const when = /(?:on|since) (\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4})/.exec(text)?.[1] ?? null;
  const done = Number(/([\d.]+)% done/.exec(text)?.[1] ?? 0) / 100;
  const running = { kind, progress: done, repaired: null, errors: null, when } as const;
  if (/in progress since/.test(text)) return { ...running, state: 'running' };
  if (/paused since/.test(text)) return { ...running, state: 'paused' };
  if (/canceled on/.test(text)) return { ...running, state: 'cancelled' };
  const repaired = /(?:repaired|resilvered) (\S+)/.exec(text)?.[1] ?? null;
  const errors = /with (\d+) errors/.exec(text)?.[1];
  return { kind, state: 'finished', progress: 1, repaired, errors: errors === undefined ? null : Number(errors), when };
}

/** One line of `zpool events -H`: its class without the prefix, e.g. `ereport.fs.zfs.checksum`. null: not an event. */
export function parseEventLine(line: string): string | null {
  const found = /\t((?:ereport|sysevent|resource)\.fs\.zfs\.[a-z0-9_.-]+)\s*$/.exec(line);
  return found?.[1] ?? null;
}

/** A pool on disks that are plugged in and not in use. */
export type ImportablePool = { name: string; guid: string; state: string; status: string | null; lastUsedElsewhere: boolean };

/** Reads what `zpool import` offers (zpool-import(8)). */
export function parseImportable(output: string): ImportablePool[] {
  return output
    .split(/^(?= {2,3}pool: )/m)
    .map((part) => readSections(part.replace(/^\s*id: /m, '     see: ')))
    .flatMap((sections) => {
      const name = sections.get('pool');
      if (name === undefined) return [];
      const status = oneLine(sections.get('status'));
      // libzfs_import.c and zpool_main.c: the two ways in which it says so.
      const lastUsedElsewhere = /last accessed by another system|was previously in use/.test(status ?? '');
      const guid = oneLine(sections.get('see'))?.split(' ')[0] ?? '';
      return [{ name, guid, state: sections.get('state') ?? '', status, lastUsedElsewhere }];
    });
}

function lines(text: string): string[] {
  return text.split('\n').filter((line) => line !== '');
}

function oneLine(text: string | undefined): string | null {
  const joined = (text ?? '').trim().replaceAll(/\s+/g, ' ');
  return joined === '' ? null : joined;
}
