import type { ChildProcess } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createEtcdStore } from '#adapters/etcd/etcd-store.ts';
import { keys } from '#core/ha/keys.ts';
import type { Heartbeat, Permit } from '#core/ha/records.ts';
import { checkTiming } from '#core/ha/timing.ts';
import type { Store, StoreEntry } from '#ports/store.ts';
import { readGuardState, type GuardLocalState } from '#programs/local-state.ts';
import {
  createFolder,
  createTestGroup,
  readLines,
  startChild,
  startPlainEtcd,
  startSleeper,
  startStandIn,
  waitUntil,
  type StandIn,
} from './guard-parts.ts';

export const node = 'n1';
export const timing = checkTiming({
  profile: 'custom',
  renewMs: 250,
  softMs: 1_500,
  watchdogMs: 1_000,
  clockRatePercent: 1,
  resetMs: 200,
  claimMs: 2_800,
});

export type Guard = {
  child: ChildProcess;
  log: { event: string; level: string; [field: string]: unknown }[];
  exited: Promise<number | null>;
};

/** A node with everything real but the hardware: etcd on loopback, a control group, the guard's own process, a FIFO watchdog. */
export type GuardNode = {
  store: Store;
  standIn: StandIn;
  run: string;
  configFile: string;
  etcd: ChildProcess;
  /** `command`: another guard than the one of this tree, without its arguments. */
  startGuard(command?: string[], env?: NodeJS.ProcessEnv): Guard;
  permit(): Promise<{ value: Permit; modRevision: bigint } | null>;
  heartbeat(): Promise<Heartbeat | null>;
  state(): GuardLocalState | null;
  /** Waits for guard.json to say `serving` and for the group of that epoch; returns the epoch. */
  serving(afterEpoch?: number): Promise<number>;
  groupOf(epoch: number): string;
  isFrozen(epoch: number): boolean;
  startGuest(epoch: number): Promise<{ pid: number; isAlive(): boolean }>;
} & AsyncDisposable;

let count = 0;

export async function startGuardNode(
  options: { watchdogMinSeconds?: number; storeCluster?: string; profile?: 'standard' } = {},
): Promise<GuardNode> {
  await using stack = new AsyncDisposableStack();
  count += 1;
  const folder = stack.use(createFolder());
  const group = stack.use(createTestGroup(`guard-${count}`));
  const standIn = stack.use(await startStandIn(folder.path, { minSeconds: options.watchdogMinSeconds }));
  const etcd = stack.use(await startPlainEtcd(folder.path));
  const store = stack.use(createEtcdStore({ endpoints: [etcd.endpoint], tls: null }));
  const cluster = { id: options.storeCluster ?? 'c1', name: 'test', createdAtMs: 0 };
  await waitUntil('the store takes the cluster', async () => {
    const outcome = await store
      .commit([{ key: keys.cluster, modRevision: 0n }], [{ key: keys.cluster, value: JSON.stringify(cluster) }])
      .catch(() => null);
    return outcome !== null && outcome.kind !== 'maybe';
  });
  const configFile = join(folder.path, 'node.toml');
  const run = join(folder.path, 'run');
  const root = join(group.path, 'ha');
  writeFileSync(
    configFile,
    formatConfig({ run, root, device: standIn.device, endpoint: etcd.endpoint, profile: options.profile }),
  );
  const owned = stack.move();
  const parts = createViews(store, run, root);
  return {
    ...parts,
    store,
    standIn,
    run,
    configFile,
    etcd: etcd.child,
    startGuard(command, env) {
      const guard = startGuardProcess(configFile, command, env);
      owned.defer(() => {
        guard.child.kill('SIGKILL');
        killGuardOf(parts.state());
      });
      return guard;
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function createViews(store: Store, run: string, root: string) {
  const groupOf = (epoch: number) => join(root, `e${epoch}`);
  const state = () => readGuardState(run);
  return {
    groupOf,
    state,
    permit: async () => parse<Permit>(await store.read(keys.nodePermit(node))),
    heartbeat: async () => parse<Heartbeat>(await store.read(keys.nodeHeartbeat(node)))?.value ?? null,
    isFrozen: (epoch: number) => readFileSync(join(groupOf(epoch), 'cgroup.events'), 'utf8').includes('frozen 1'),
    startGuest: (epoch: number) => startSleeper(join(groupOf(epoch), '100')),
    async serving(afterEpoch = 0) {
      return await waitUntil(`serving after epoch ${afterEpoch}`, () => {
        const now = state();
        const epoch = now?.phase === 'serving' ? now.epoch : null;
        return epoch !== null && epoch > afterEpoch && existsSync(groupOf(epoch)) ? epoch : null;
      });
    },
  };
}

function parse<T>(entry: StoreEntry | null): { value: T; modRevision: bigint } | null {
  return entry === null ? null : { value: JSON.parse(entry.value) as T, modRevision: entry.modRevision };
}

const ownGuard = [process.execPath, join(import.meta.dirname, '../../src/programs/guard/main.ts')];

/** A successor is not the test's child. */
function killGuardOf(state: GuardLocalState | null): void {
  try {
    if (state !== null) process.kill(state.pid, 'SIGKILL');
  } catch {
    // It has ended already.
  }
}

function startGuardProcess(configFile: string, [program, ...args]: string[] = ownGuard, env: NodeJS.ProcessEnv = {}): Guard {
  const child = startChild(program!, [...args, '--config', configFile], env);
  const log: Guard['log'] = [];
  readLines(child, (line) => log.push(JSON.parse(line)));
  const { promise: exited, resolve } = Promise.withResolvers<number | null>();
  child.once('exit', (code) => resolve(code));
  child.stderr?.setEncoding('utf8').on('data', (text: string) => log.push({ event: 'stderr', level: 'error', text }));
  return { child, log, exited };
}

function formatConfig(parts: { run: string; root: string; device: string; endpoint: string; profile?: string }): string {
  return `[node]
name = "${node}"
cluster = "c1"
address = "127.0.0.1"
data = "${parts.run}"
run = "${parts.run}"
[etcd]
endpoints = ["${parts.endpoint}"]
[timing]
${parts.profile === undefined ? customTiming : `profile = "${parts.profile}"`}
[watchdog]
device = "${parts.device}"
[guests]
cgroup = "${parts.root}"
uid = 65534
gid = 65534
accelerator = "tcg"
[relay]
port = 7711
`;
}

const customTiming = `profile = "custom"
renew-ms = ${timing.renewMs}
soft-ms = ${timing.softMs}
watchdog-ms = ${timing.watchdogMs}
clock-rate-percent = ${timing.clockRatePercent}
reset-ms = ${timing.resetMs}
claim-ms = ${timing.claimMs}`;
