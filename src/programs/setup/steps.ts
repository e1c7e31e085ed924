import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { etcdTiming, formatEtcdEnvironment, lenientEtcdTiming } from '#adapters/etcd/etcd-arguments.ts';
import type { EtcdStoreOptions } from '#adapters/etcd/etcd-store.ts';
import { createEtcdStore } from '#adapters/etcd/etcd-store.ts';
import type { Units } from '#adapters/systemd/units.ts';
import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { formatNodeToml } from '#core/cluster/node-toml.ts';
import { clusterPorts, formatHttps } from '#core/cluster/ports.ts';
import { checkPreflight, type ClusterFacts, type MachineFacts, formatFindings } from '#core/cluster/preflight.ts';
import { keys } from '#core/ha/keys.ts';
import type { Heartbeat } from '#core/ha/records.ts';
import { readGuardState } from '#programs/local-state.ts';
import { guestUser } from './settings.ts';
import { placeFile, setupFiles, setupTls, type SetupRecord } from './setup-file.ts';
import { programUnits, units as names } from './unit-names.ts';

/** What the commands need of the world: words for people go out line by line, each before its step is begun. */
export type SetupParts = { units: Units; say: (line: string) => void };

/** Tells everything that is wrong at once. Raises AppError conflict with all of it; nothing was changed then. */
export function demandFit(
  facts: MachineFacts,
  role: 'node' | 'witness',
  cluster: ClusterFacts | null,
  say: (line: string) => void,
): void {
  const { problems, notes } = checkPreflight(facts, role, cluster);
  for (const { what, next } of notes) say(`note: ${what} (${next})`);
  if (problems.length === 0) return;
  const count = problems.length === 1 ? 'one thing stands' : `${problems.length} things stand`;
  throw new AppError(
    'conflict',
    `this machine cannot be a ${role} yet; ${count} in the way and nothing was changed:\n${formatFindings(problems)}`,
  );
}

/** The node's settings, for our programs and for the units. */
export function writeSettings(setup: SetupRecord, endpoints: string[]): void {
  const settings = formatNodeToml({
    ...setup,
    cluster: setup.cluster.id,
    endpoints,
    tls: setupTls,
    relayPort: clusterPorts.relay,
    ...guestUser,
  });
  placeFile(setupFiles.guardEnv, `HOLDFAST_WATCHDOG_DRIVER=${setup.watchdogDriver ?? ''}\n`, 0o644);
  mkdirSync(setupFiles.secrets, { recursive: true, mode: 0o700 });
  placeFile(setupFiles.nodeToml, settings, 0o644);
}

/** How this machine's member of the store is run. `peers`: every member there is, this one included. */
export function writeStoreSettings(
  setup: SetupRecord,
  peers: { name: string; peerUrl: string }[],
  initialState: 'new' | 'existing',
): void {
  mkdirSync(join(setup.data, 'etcd'), { recursive: true, mode: 0o700 });
  const text = formatEtcdEnvironment({
    name: setup.name,
    dataDirectory: join(setup.data, 'etcd'),
    address: setup.address,
    clientPort: clusterPorts.storeClient,
    peerPort: clusterPorts.storePeer,
    initialMembers: peers.map(({ name, peerUrl }) => {
      const { hostname, port } = new URL(peerUrl);
      return { name, address: hostname.replaceAll(/[[\]]/g, ''), peerPort: Number(port) };
    }),
    clusterToken: setup.cluster.id,
    initialState,
    tls: setupTls,
    timing: setup.profile === 'lenient' ? lenientEtcdTiming : etcdTiming,
  });
  placeFile(setupFiles.etcdEnv, text, 0o644);
}

/** Starts the node's programs and waits until the guard serves and the agent has told the cluster what the node has. */
export async function startPrograms(setup: SetupRecord, endpoints: string[], { units, say }: SetupParts): Promise<void> {
  say('starting guard, relay and agent');
  await units.enable(...programUnits);
  await using store = createEtcdStore(storeOf(endpoints));
  let missing: string[] = [];
  const ready = await waitFor(limits.programsReadyMs, async () => {
    const heartbeat = await store.read(keys.nodeHeartbeat(setup.name));
    const serves = heartbeat !== null && (JSON.parse(heartbeat.value) as Heartbeat).phase === 'serving';
    const told = (await store.read(keys.nodeInfo(setup.name))) !== null;
    missing = [...(serves ? [] : ['its guard to serve']), ...(told ? [] : ['its agent to report'])];
    return missing.length === 0;
  });
  if (ready) return;
  const problems = readGuardState(setup.run)?.problems ?? [];
  const why = problems.length === 0 ? 'see journalctl -u "holdfast-*"' : problems.join('; ');
  throw new AppError(
    'timeout',
    `${setup.name} waits for ${missing.join(' and ')} after ${limits.programsReadyMs / 1000} s: ${why}; run the same command again to go on`,
  );
}

export function storeOf(endpoints: string[]): EtcdStoreOptions {
  return { endpoints, tls: setupTls };
}

/** This machine's own member, for clients and for members. */
export function ownUrls({ address }: Pick<SetupRecord, 'address'>): { client: string; peer: string } {
  return { client: formatHttps(address, clusterPorts.storeClient), peer: formatHttps(address, clusterPorts.storePeer) };
}

/** Starts this machine's member of the store. */
export async function startStore({ units, say }: SetupParts): Promise<void> {
  say('starting the store');
  await units.enable(names.etcd);
}

/** Looks until `look` says yes; trouble of one look is no trouble. False at the deadline. */
export async function waitFor(deadlineMs: number, look: () => Promise<boolean>): Promise<boolean> {
  const untilMs = performance.now() + deadlineMs;
  for (;;) {
    try {
      if (await look()) return true;
    } catch (error) {
      if (!isAppError(error, 'unavailable', 'timeout', 'busy')) throw error;
      if (performance.now() > untilMs)
        throw new AppError(error.kind, `given up after ${deadlineMs / 1000} s: ${formatErrorChain(error)}`, { cause: error });
    }
    if (performance.now() > untilMs) return false;
    await pause(limits.cliPollMs);
  }
}
