import { mkdtempSync, chmodSync, existsSync, readdirSync, rmSync } from 'node:fs';
import { totalmem, tmpdir } from 'node:os';
import { join } from 'node:path';
import { findCgroup2Mount } from '#adapters/cgroup/cgroup2-mount.ts';
import {
  isPortFree,
  listAddresses,
  readClockIsSynchronized,
  readFreeBytes,
  readVersion,
  readWatchdogIdentity,
} from '#adapters/host/host-facts.ts';
import { probeAccelerator } from '#adapters/qemu/accelerator-probe.ts';
import type { Units } from '#adapters/systemd/units.ts';
import { openWatchdog } from '#adapters/watchdog/watchdog.ts';
import { formatErrorChain, isAppError } from '#base/error.ts';
import { clusterPorts } from '#core/cluster/ports.ts';
import type { MachineFacts } from '#core/cluster/preflight.ts';
import { timingProfiles, type TimingProfileName } from '#core/ha/timing.ts';
import { guestUser, type Settings } from './settings.ts';
import { setupFiles, type SetupRecord } from './setup-file.ts';
import { units as names } from './unit-names.ts';

/**
 * Looks at this machine. `before`: what it is becoming already, from an earlier run. Changes nothing but that it boots a probe guest and,
 * where no guard holds it, arms and disarms the watchdog within milliseconds: only so is its real timeout known.
 */
export async function readMachine(settings: Settings, before: SetupRecord | null, units: Units): Promise<MachineFacts> {
  const isNode = settings.role === 'node';
  const [stores, guards, relays] = await Promise.all([names.etcd, names.guard, names.relay].map((unit) => isOurs(units, unit)));
  return {
    isRoot: process.getuid?.() === 0,
    cgroup: { path: settings.cgroup, kind: readCgroupKind(settings.cgroup) },
    programs: await readPrograms(isNode),
    accelerator: isNode ? await readAccelerator(settings.accelerator) : null,
    watchdog: isNode ? readWatchdog(settings, guards === true) : null,
    address: readAddress(settings.address),
    ports: await readPorts(settings.address, isNode, { store: stores === true, relay: relays === true }),
    clockIsSynchronized: await readClockIsSynchronized(),
    disk: { path: settings.data, freeBytes: await readFreeBytes(settings.data) },
    memoryBytes: totalmem(),
    leftovers: before === null ? listLeftovers(settings.data) : [],
  };
}

async function isOurs(units: Units, unit: string): Promise<boolean> {
  try {
    return await units.isActive(unit);
  } catch (error) {
    if (!isAppError(error, 'missing')) throw error;
    return false; // without systemd nothing of ours runs; that it is missing is told with the programs
  }
}

function readCgroupKind(path: string): MachineFacts['cgroup']['kind'] {
  try {
    return path.startsWith(`${findCgroup2Mount()}/`) ? 'version-2' : 'hybrid';
  } catch {
    return 'absent';
  }
}

async function readPrograms(isNode: boolean): Promise<MachineFacts['programs']> {
  const wanted: [name: string, debianPackage: string, wantedVersion: string | null][] = [
    ['etcd', 'etcd-server', '3.4'],
    ['systemctl', 'systemd', null],
  ];
  if (isNode) {
    wanted.push(
      ['qemu-system-x86_64', 'qemu-system-x86', '7.2'],
      ['qemu-img', 'qemu-utils', '7.2'],
      ['setpriv', 'util-linux', null],
    );
  }
  return Promise.all(
    wanted.map(async ([name, debianPackage, wantedVersion]) => ({
      name,
      debianPackage,
      wantedVersion,
      version: await readVersion(name),
    })),
  );
}

async function readAccelerator(wanted: Settings['accelerator']): Promise<MachineFacts['accelerator']> {
  const runDir = mkdtempSync(join(tmpdir(), 'holdfast-probe-'));
  try {
    chmodSync(runDir, 0o711);
    const facts = await probeAccelerator({ qemu: 'qemu-system-x86_64', runDir, user: guestUser, accelerator: wanted });
    return { wanted, works: facts.accelerator, because: facts.because };
  } catch (error) {
    if (!isAppError(error)) throw error;
    return { wanted, works: null, because: formatErrorChain(error) };
  } finally {
    rmSync(runDir, { recursive: true, force: true });
  }
}

function readWatchdog({ watchdog: device, profile }: Settings, guardRuns: boolean): MachineFacts['watchdog'] {
  const wantedMs = timingProfiles[profile as TimingProfileName].watchdogMs;
  if (guardRuns) return { device, wantedMs, state: { kind: 'ours' } };
  try {
    const opened = openWatchdog(device, wantedMs);
    const { timeoutMs } = opened;
    opened.disarm();
    const { identity } = readWatchdogIdentity(device);
    return { device, wantedMs, state: { kind: 'works', timeoutMs, isSoftware: identity === 'Software Watchdog' } };
  } catch (error) {
    if (!isAppError(error)) throw error;
    return { device, wantedMs, state: { kind: 'unusable', because: formatErrorChain(error) } };
  }
}

function readAddress(value: string): MachineFacts['address'] {
  const known = listAddresses();
  return { value, onThisMachine: known.includes(value) || value.startsWith('127.'), known };
}

async function readPorts(
  address: string,
  isNode: boolean,
  ours: { store: boolean; relay: boolean },
): Promise<MachineFacts['ports']> {
  const wanted = [
    { port: clusterPorts.storeClient, what: 'the store, for clients', isOurs: ours.store },
    { port: clusterPorts.storePeer, what: 'the store, for its members', isOurs: ours.store },
    ...(isNode ? [{ port: clusterPorts.relay, what: 'replication', isOurs: ours.relay }] : []),
  ];
  return Promise.all(
    wanted.map(async ({ port, what, isOurs: held }) => {
      const holder = held ? 'ours' : (await isPortFree(address, port)) ? 'free' : 'other';
      return { port, what, holder } as const;
    }),
  );
}

function listLeftovers(data: string): string[] {
  const left: string[] = [];
  if (existsSync(setupFiles.nodeToml))
    left.push(`${setupFiles.nodeToml} is there: this machine was set up by hand or by another cluster`);
  if (existsSync(setupFiles.ca) || existsSync(setupFiles.caKey)) left.push(`${setupFiles.pki} holds the authority of a cluster`);
  const store = join(data, 'etcd');
  if (existsSync(store) && readdirSync(store).length > 0) left.push(`${store} holds the record of a cluster`);
  return left;
}
