import { join } from 'node:path';
import { createClock } from '#adapters/clock/boot-clock.ts';
import type { BackupTarget } from '#core/guest-backup/records.ts';
import type { LiveLimits } from '#core/guest-backup/live-limits.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaResource } from '#core/ha/records.ts';
import type { RequestOrder, RequestRecord, RequestState } from '#core/ha/requests.ts';
import { createGuestRests } from '#programs/guest-rest.ts';
import type { Clock } from '#ports/clock.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import { type BackupDesk, createBackupDesk } from '#programs/agent/backup-desk.ts';
import { runBackupJobs } from '#programs/agent/backup-jobs.ts';
import { createBell } from '#programs/agent/bell.ts';
import { runRequests } from '#programs/agent/requests.ts';
import { createLiveRestores, type LiveRestores } from '#programs/agent/live-restores.ts';
import { createRestoreDesk } from '#programs/agent/restore-desk.ts';
import { followWorld } from '#programs/agent/world.ts';
import type { BackupPlace } from '../backup-command-parts.ts';
import type { AgentRig, RigAgent } from './agent-rig.ts';
import { imageUser } from './dir-rig.ts';
import { vmid } from './moved-guest.ts';
import { until } from './until.ts';

/** The requests of n1, until it is aborted. */
export function serveRequests(rig: AgentRig, agent: RigAgent): AbortController {
  return serveBackups(rig, agent, createClock()).stop;
}

/** The requests and the backup jobs of n1 by `clock`, until `stop` is aborted. */
export function serveBackups(
  rig: AgentRig,
  agent: RigAgent,
  clock: Clock,
  timing?: LiveLimits,
): { stop: AbortController; desk: BackupDesk; live: LiveRestores } {
  const node = rig.node('n1');
  const stop = new AbortController();
  const store = rig.store.connect();
  const bell = createBell();
  const { world } = followWorld({ store, clock, onChange: () => bell.ring(), onTrouble: () => {} }, stop.signal);
  const backups = createBackupDesk({
    self: 'n1',
    node: 'n1',
    store,
    run: node.run,
    scratch: join(node.directory, 'scratch'),
    scratchLimitBytes: 1 << 30,
    user: imageUser,
    points: node.points,
    rests: createGuestRests({ run: node.run, log: (text) => node.logged.push(text) }),
    clock,
    storage: node.storage,
    running: () => agent.loop.running(),
    yieldingly: (number, work) => agent.loop.yieldingly(number, work),
    readEpoch: () => 1,
    log: (text) => node.logged.push(text),
  });
  const restores = createRestoreDesk({
    self: 'n1',
    store,
    storage: node.storage,
    readEpoch: () => 1,
    isRunning: (number) => agent.loop.running().some((guest) => guest.vmid === number),
  });
  const live = createLiveRestores({
    self: 'n1',
    run: node.run,
    user: imageUser,
    store,
    world,
    storage: node.storage,
    guests: agent.loop,
    ...(timing === undefined ? {} : { timing }),
    log: (text) => node.logged.push(text),
  });
  void live.run(stop.signal);
  const log = { info() {}, warn() {} };
  const parts = {
    self: 'n1',
    bootId: 'b',
    run: node.run,
    clock,
    store,
    world,
    bell,
    storage: node.storage,
    guests: agent.loop,
    backups,
    restores,
    live,
    log,
  };
  void runRequests({ ...parts, syncNow: async () => [], nodeEnd: agent.nodeEnd }, stop.signal);
  const running = (): RunningGuest[] => agent.loop.running();
  const say = (text: string): void => void node.logged.push(text);
  void runBackupJobs({ self: 'n1', store, world, clock, running, desk: backups, log: say }, stop.signal);
  return { stop, desk: backups, live };
}

let asked = 0;

/** Returns its id. `begun`: that of an earlier agent, which had begun it. */
export async function ask(rig: AgentRig, order: RequestOrder, begun?: { id: string; state: RequestState }): Promise<string> {
  const id = begun?.id ?? `${String((asked += 1)).padStart(13, '0')}-test`;
  const state: RequestState = begun?.state ?? { state: 'waiting' };
  const request: RequestRecord = { id, node: 'n1', createdAtMs: 0, ...order, ...state };
  await rig.store.commit(
    [{ key: keys.request(id), modRevision: 0n }],
    [{ key: keys.request(id), value: JSON.stringify(request) }],
  );
  return id;
}

export async function answered(rig: AgentRig, id: string): Promise<RequestRecord> {
  return await until(`request ${id} ends`, 60_000, async () => {
    const now = await read<RequestRecord>(rig, keys.request(id));
    return now?.state === 'done' || now?.state === 'failed' ? now : null;
  });
}

export async function read<T>(rig: AgentRig, key: string): Promise<T | null> {
  const entry = await rig.store.read(key);
  return entry === null ? null : (JSON.parse(entry.value) as T);
}

export async function put(rig: AgentRig, key: string, value: unknown): Promise<void> {
  const now = await rig.store.read(key);
  await rig.store.commit([{ key, modRevision: now?.modRevision ?? 0n }], [{ key, value: JSON.stringify(value) }]);
}

export function vault(place: BackupPlace): BackupTarget {
  return {
    id: 'vault',
    repository: `u@pbs!t@127.0.0.1:${place.port}:store`,
    fingerprint: place.fingerprint.toLowerCase(),
    namespace: '',
    passwordFile: join(place.folder, 'secret'),
    keyFile: null,
  };
}

/** A backup of the rig's guest. */
export const backup: Extract<RequestOrder, { kind: 'guest-backup' }> = {
  kind: 'guest-backup',
  vmid,
  target: 'vault',
  freeze: true,
  notes: 'by request',
  rateBytesPerSecond: null,
};

/** What an operator wants of the rig's guest, and the manager's order that follows; returns when the order has ended. */
export async function want(rig: AgentRig, wanted: HaResource['want'], kind: 'run' | 'stop'): Promise<void> {
  await put(rig, keys.haResource(vmid), { vmid, want: wanted, maxDataAgeMs: null } satisfies HaResource);
  await rig.ended(vmid, await rig.order(vmid, kind === 'stop' ? { kind, timeoutMs: 0, promote: null } : { kind, promote: null }));
}
