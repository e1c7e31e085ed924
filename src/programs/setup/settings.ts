import { hostname } from 'node:os';
import { isIP } from 'node:net';
import { isAbsolute } from 'node:path';
import { listAddresses, readWatchdogIdentity } from '#adapters/host/host-facts.ts';
import { AppError } from '#base/error.ts';
import { parseNodeName } from '#base/ids.ts';
import type { ClusterRole } from '#core/cluster/join-code.ts';
import { parseRootDataset } from '#core/storage/zfs/names.ts';
import { timingProfiles } from '#core/ha/timing.ts';
import type { SetupRecord } from './setup-file.ts';

/** As typed; what is left out has its default or is found out. */
export type SetupOptions = {
  name?: string;
  address?: string;
  profile?: string;
  watchdog?: string;
  accelerator?: string;
  guestsCgroup?: string;
  data?: string;
  dataset?: string | null;
};

/** Everything about this machine's part but the cluster it belongs to. */
export type Settings = Omit<SetupRecord, 'how' | 'cluster' | 'machine' | 'stores' | 'state'>;

/** The guests' group below the unit that holds it (packaging/systemd/holdfast-guests.service). */
const defaultCgroup = '/sys/fs/cgroup/holdfast.slice/holdfast-guests.service/ha';

/** Numbers that no account of the host has: QEMU runs as them. */
export const guestUser = { uid: 64_077, gid: 64_077 } as const;

/** Checks and completes what was typed. Raises AppError invalid, naming the option. */
export function readSettings(options: SetupOptions, role: ClusterRole): Settings {
  const watchdog = parsePath(options.watchdog ?? '/dev/watchdog0', 'watchdog');
  return {
    role,
    name: parseNodeName(options.name ?? hostname().split('.')[0]?.toLowerCase() ?? '', 'name'),
    address: chooseAddress(options.address),
    profile: parseOneOf(options.profile ?? 'standard', 'profile', Object.keys(timingProfiles)),
    watchdog,
    watchdogDriver: role === 'node' ? readWatchdogIdentity(watchdog).driver : null,
    accelerator: parseOneOf(options.accelerator ?? 'auto', 'accelerator', ['auto', 'kvm', 'tcg'] as const),
    cgroup: parsePath(options.guestsCgroup ?? defaultCgroup, 'guests-cgroup'),
    data: parsePath(options.data ?? '/var/lib/holdfast', 'data'),
    dataset: options.dataset === undefined || options.dataset === null ? null : parseRootDataset(options.dataset, 'dataset'),
    run: '/run/holdfast',
  };
}

function chooseAddress(typed: string | undefined): string {
  if (typed !== undefined) {
    if (isIP(typed) !== 0) return typed;
    throw new AppError('invalid', `address: ${JSON.stringify(typed)} is no IP address; nodes are known to each other by address`);
  }
  const known = listAddresses();
  if (known.length === 1) return known[0]!;
  const choice = known.length === 0 ? 'this machine has none' : `this machine has ${known.join(', ')}`;
  throw new AppError('invalid', `address: say which one the other nodes reach with --address (${choice})`);
}

function parseOneOf<T extends string>(text: string, field: string, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === text);
  if (found !== undefined) return found;
  throw new AppError('invalid', `${field}: ${JSON.stringify(text)} is none of ${choices.join(', ')}`);
}

function parsePath(path: string, field: string): string {
  if (isAbsolute(path) && !/\s/.test(path)) return path;
  throw new AppError('invalid', `${field}: ${JSON.stringify(path)} is not an absolute path without blanks`);
}

/** What makes it the same machine in a second run. */
export function describeDifference(before: SetupRecord, now: Settings): string | null {
  const same = ['role', 'name', 'address', 'data'] as const;
  const changed = same.find((key) => before[key] !== now[key]);
  const [then, today] = [before.dataset ?? null, now.dataset ?? null];
  if (changed === undefined && then !== today) return `dataset was ${then ?? 'none'} then and is ${today ?? 'none'} now`;
  return changed === undefined ? null : `${changed} was ${before[changed]} then and is ${now[changed]} now`;
}
