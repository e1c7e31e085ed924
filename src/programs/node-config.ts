import { readFileSync } from 'node:fs';
import { isAbsolute } from 'node:path';
import { parse, TomlError } from 'smol-toml';
import { AppError, formatErrorChain } from '#base/error.ts';
import { parseNodeName } from '#base/ids.ts';
import {
  choiceShape,
  findTroubles,
  listShape,
  numberShape,
  objectShape,
  optionalShape,
  type Shaped,
  textShape,
  wholeShape,
} from '#core/text/shape.ts';
import { parseRootDataset } from '#core/storage/zfs/names.ts';
import { checkTiming, timingProfiles, type Timing } from '#core/ha/timing.ts';

/** A node's own configuration, read once by each program's main. A change takes a restart. */
export type NodeConfig = {
  file: string;
  node: {
    name: string;
    cluster: string;
    /** Which machine this is among those that have borne the name; null: the cluster does not tell them apart (a lab). */
    machine: string | null;
    address: string;
    data: string;
    run: string;
  };
  /** `tls` null only when every endpoint is plain http. */
  etcd: { endpoints: string[]; tls: { caFile: string; certFile: string; keyFile: string } | null };
  timing: Timing;
  watchdog: { device: string };
  guests: { cgroup: string; uid: number; gid: number; accelerator: 'auto' | 'kvm' | 'tcg' };
  relay: { port: number };
  /** `dir`: guests' disks are files below `data`. `zfs`: datasets below `dataset`; new ones are volumes (with blocks of that size) or files. */
  storage: { driver: 'dir' } | { driver: 'zfs'; dataset: string; disks: 'volume' | 'file'; blockBytes: number };
};

const text = textShape({ minLength: 1 });
const wholeMs = wholeShape({ minimum: 0 });

const fileShape = objectShape(
  {
    node: objectShape(
      { name: text, cluster: text, machine: optionalShape(text), address: text, data: text, run: text },
      'strict',
    ),
    etcd: objectShape(
      {
        endpoints: listShape(textShape({ pattern: /^https?:\/\/[^/]+$/ }), { minItems: 1 }),
        ca: optionalShape(text),
        cert: optionalShape(text),
        key: optionalShape(text),
      },
      'strict',
    ),
    timing: objectShape(
      {
        profile: choiceShape(['brisk', 'standard', 'lenient', 'custom']),
        'renew-ms': optionalShape(wholeMs),
        'soft-ms': optionalShape(wholeMs),
        'watchdog-ms': optionalShape(wholeMs),
        'clock-rate-percent': optionalShape(numberShape({ minimum: 0 })),
        'reset-ms': optionalShape(wholeMs),
        'claim-ms': optionalShape(wholeMs),
      },
      'strict',
    ),
    watchdog: objectShape({ device: text }, 'strict'),
    guests: objectShape(
      {
        cgroup: text,
        uid: wholeShape({ minimum: 0 }),
        gid: wholeShape({ minimum: 0 }),
        accelerator: choiceShape(['auto', 'kvm', 'tcg']),
      },
      'strict',
    ),
    relay: objectShape({ port: wholeShape({ minimum: 1, maximum: 65_535 }) }, 'strict'),
    storage: optionalShape(
      objectShape(
        {
          driver: choiceShape(['dir', 'zfs']),
          dataset: optionalShape(text),
          disks: optionalShape(choiceShape(['volume', 'file'])),
          'block-bytes': optionalShape(choiceShape([16_384, 32_768, 65_536])),
        },
        'strict',
      ),
    ),
  },
  'strict',
);

type FileConfig = Shaped<typeof fileShape>;
/** Where a refusal points: `file:line`, then the key. */
type Source = { file: string; text: string };

/**
 * Reads node.toml. Raises AppError missing (no such file) or invalid: `FILE:LINE: SECTION.KEY: what is wrong`. Nothing unknown is
 * passed over: a misspelt key would otherwise silently leave a default in a safety setting.
 */
export function readNodeConfig(file: string): NodeConfig {
  try {
    return parseNodeConfig(file, readFileSync(file, 'utf8'));
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw new AppError('missing', `reading the node's configuration ${file} failed; pass --config FILE`, { cause: error });
  }
}

/** As readNodeConfig, from text; `file` is used in refusals only. */
export function parseNodeConfig(file: string, content: string): NodeConfig {
  const source = { file, text: content };
  const config = checkShape(source, parseToml(source));
  for (const [section, key] of [
    ['node', 'data'],
    ['node', 'run'],
    ['watchdog', 'device'],
    ['guests', 'cgroup'],
  ] as const) {
    const path = (config[section] as Record<string, unknown>)[key];
    if (typeof path !== 'string' || !isAbsolute(path))
      throw refusal(source, section, key, `${JSON.stringify(path)} is not an absolute path`);
  }
  return {
    file,
    node: {
      ...config.node,
      machine: config.node.machine ?? null,
      name: checkedAt(source, 'node', 'name', () => parseNodeName(config.node.name, 'name')),
    },
    etcd: { endpoints: config.etcd.endpoints, tls: readTls(source, config.etcd) },
    timing: readTiming(source, config.timing),
    watchdog: { ...config.watchdog },
    guests: { ...config.guests },
    relay: { ...config.relay },
    storage: readStorage(source, config.storage),
  };
}

function readStorage(source: Source, storage: FileConfig['storage']): NodeConfig['storage'] {
  if (storage === undefined || storage.driver === 'dir') {
    const extra = Object.keys(storage ?? {}).find((key) => key !== 'driver');
    if (extra === undefined) return { driver: 'dir' };
    throw refusal(source, 'storage', extra, 'belongs to driver = "zfs" only; driver is "dir"');
  }
  const { dataset, disks = 'volume', 'block-bytes': blockBytes = 16_384 } = storage;
  if (dataset === undefined)
    throw refusal(source, 'storage', 'dataset', 'is missing; driver = "zfs" needs it, e.g. "tank/holdfast"');
  return {
    driver: 'zfs',
    dataset: checkedAt(source, 'storage', 'dataset', () => parseRootDataset(dataset, 'dataset')),
    disks,
    blockBytes,
  };
}

function parseToml(source: Source): unknown {
  try {
    return parse(source.text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const reason = error.message.split('\n')[0] ?? '';
    throw new AppError('invalid', `${source.file}:${error.line}: ${reason}`, { cause: error });
  }
}

function checkShape(source: Source, value: unknown): FileConfig {
  const troubles = findTroubles(fileShape, value);
  // A misspelt key is reported as unknown rather than by the wanted one that is missing: the line to change is the misspelt one.
  const first = troubles.find(({ kind }) => kind === 'unknown') ?? troubles[0];
  if (first === undefined) return value as FileConfig;
  const [section, key] = first.path;
  const advice = first.kind === 'unknown' ? '; remove it or correct its spelling' : '';
  throw refusal(source, section, key, `${first.text}${advice}`);
}

function readTls(source: Source, etcd: FileConfig['etcd']): NodeConfig['etcd']['tls'] {
  const { ca, cert, key, endpoints } = etcd;
  if (ca !== undefined && cert !== undefined && key !== undefined) return { caFile: ca, certFile: cert, keyFile: key };
  const absent = (['ca', 'cert', 'key'] as const).find((name) => etcd[name] === undefined);
  if (
    ca === undefined &&
    cert === undefined &&
    key === undefined &&
    endpoints.every((endpoint) => endpoint.startsWith('http://'))
  ) {
    return null;
  }
  throw refusal(source, 'etcd', absent, 'is missing; ca, cert and key belong together, and https needs them');
}

function readTiming(source: Source, timing: FileConfig['timing']): Timing {
  const { profile, ...fields } = timing;
  if (profile !== 'custom') {
    const extra = Object.keys(fields)[0];
    if (extra === undefined) return checkTiming(timingProfiles[profile]);
    throw refusal(source, 'timing', extra, `belongs to profile = "custom" only; profile is "${profile}"`);
  }
  const whole = (key: Exclude<keyof FileConfig['timing'], 'profile'>): number => {
    const value = fields[key];
    if (value === undefined) throw refusal(source, 'timing', key, 'is missing; profile = "custom" needs every time');
    return value;
  };
  const custom = {
    profile,
    renewMs: whole('renew-ms'),
    softMs: whole('soft-ms'),
    watchdogMs: whole('watchdog-ms'),
    clockRatePercent: whole('clock-rate-percent'),
    resetMs: whole('reset-ms'),
    claimMs: whole('claim-ms'),
  };
  return checkedAt(source, 'timing', undefined, () => checkTiming(custom));
}

function checkedAt<T>(source: Source, section: string, key: string | undefined, check: () => T): T {
  try {
    return check();
  } catch (error) {
    throw refusal(source, section, key, formatErrorChain(error), error);
  }
}

function refusal(source: Source, section: string | undefined, key: string | undefined, why: string, cause?: unknown): AppError {
  const name = [section, key].filter((part) => part !== undefined).join('.');
  const line = findLine(source.text, section, key);
  return new AppError('invalid', `${source.file}:${line}: ${name}: ${why}`, { cause });
}

/** Line of `key` in `[section]`; of the section when the key is not there, 1 when neither is. smol-toml keeps no positions. */
function findLine(content: string, section: string | undefined, key: string | undefined): number {
  let current = '';
  let sectionLine = 1;
  for (const [index, line] of content.split('\n').entries()) {
    const header = /^\s*\[+\s*"?([^\]"]+?)"?\s*\]/.exec(line);
    if (header !== null) {
      current = header[1] ?? '';
      if (current === section) sectionLine = index + 1;
      continue;
    }
    const name = /^\s*"?([A-Za-z0-9_.-]+)"?\s*=/.exec(line)?.[1];
    if (name === undefined) continue;
    const atTop = current === '' && (name === section || name === `${section}.${key}`);
    if (atTop || (current === section && name === key)) return index + 1;
  }
  return sectionLine;
}
