import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaCommand, HaResource, HaStatus, Heartbeat, NodeInfo, Permit } from '#core/ha/records.ts';
import type { RequestRecord, RequestState } from '#core/ha/requests.ts';
import type { ReplicaRecord } from '#core/replica/records.ts';
import type { StoreEntry } from '#ports/store.ts';
import type { DrillTools, LabTools } from '#cli/lab-tools.ts';
import type { PoolTools } from '#cli/pool-tools.ts';
import type { SetupTools } from '#cli/setup-tools.ts';
import { runCli } from '#cli/program.ts';
import type { CliWorld, ClusterStore, Place } from '#cli/world.ts';

/**
 * A cluster in memory for the tests of the commands: time stands still until a command sleeps, and whatever a test wants to
 * happen meanwhile happens in `onSleep`.
 */
export type FakeWorld = {
  store: ClusterStore & { put(key: string, value: unknown): void; peek<T>(key: string): T | null };
  nowMs: number;
  place: Place;
  files: Map<string, string>;
  healthy: string[];
  /** The machine room; a method a test did not give fails it. */
  lab: Partial<LabTools>;
  drills: Partial<DrillTools>;
  setup: Partial<SetupTools>;
  pools: Partial<PoolTools>;
  /** What is typed when a secret is asked for. */
  secret: string;
  /** Whether the arguments were hidden. */
  hidden: boolean;
  /** Called each time a command sleeps, after time has moved on. */
  onSleep: () => void;
  interrupt: AbortController;
  run(...argv: string[]): Promise<{ code: number; out: string; err: string }>;
};

export function createFakeWorld(): FakeWorld {
  const entries = new Map<string, StoreEntry>();
  let revision = 1n;
  const write = (key: string, value: string | null) => {
    if (value === null) entries.delete(key);
    else entries.set(key, { key, value, modRevision: revision });
  };
  const fake: FakeWorld = {
    nowMs: 1_000_000,
    place: { kind: 'server', node: 'n1', dataDirectory: '/data' },
    files: new Map(),
    healthy: ['n1', 'n2', 'n3'],
    lab: { chooseLab: (name) => name ?? 'the-only-one', defaultLab: 'lab' },
    drills: {},
    setup: {},
    pools: {},
    secret: '',
    hidden: false,
    onSleep: () => {},
    interrupt: new AbortController(),
    run: (...argv) => runFake(fake, argv),
    store: {
      put(key, value) {
        revision += 1n;
        write(key, JSON.stringify(value));
      },
      peek: <T>(key: string) => {
        const entry = entries.get(key);
        return entry === undefined ? null : (JSON.parse(entry.value) as T);
      },
      read: (key) => Promise.resolve(entries.get(key) ?? null),
      list: (prefix) => {
        const found = [...entries.values()].filter((entry) => entry.key.startsWith(prefix));
        return Promise.resolve({ entries: found.sort((a, b) => (a.key < b.key ? -1 : 1)), revision });
      },
      commit: (compares, writes) => {
        const holds = compares.every(({ key, modRevision }) => (entries.get(key)?.modRevision ?? 0n) === modRevision);
        if (!holds) return Promise.resolve({ kind: 'conflict' });
        revision += 1n;
        for (const { key, value } of writes) write(key, value);
        return Promise.resolve({ kind: 'committed', revision });
      },
      watch: () => {
        throw new Error('the commands poll');
      },
      listMembers: () =>
        Promise.resolve(
          ['n1', 'n2', 'n3'].map((name) => {
            const healthy = fake.healthy.includes(name);
            return { name, endpoint: name, healthy, leader: healthy && name === 'n1' };
          }),
        ),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    },
  };
  return fake;
}

async function runFake(fake: FakeWorld, argv: string[]): Promise<{ code: number; out: string; err: string }> {
  const printed = { out: '', err: '' };
  const writer = (stream: 'out' | 'err') => ({
    write: (text: string) => {
      printed[stream] += text;
    },
    isTerminal: false,
    widthColumns: 100,
  });
  const world: CliWorld = {
    out: writer('out'),
    err: writer('err'),
    nowMs: () => fake.nowMs,
    sleep: (waitMs) => {
      fake.nowMs += waitMs;
      fake.onSleep();
      return fake.interrupt.signal.aborted ? Promise.reject(fake.interrupt.signal.reason as Error) : Promise.resolve();
    },
    chance: (letters) => 'abcdef0123456789'.slice(0, letters),
    signal: fake.interrupt.signal,
    reach: () => Promise.resolve({ kind: 'here', place: fake.place, openStore: () => fake.store }),
    loadLab: () => Promise.resolve(fake.lab as LabTools),
    drills: fake.drills as DrillTools,
    loadSetup: () => Promise.resolve(fake.setup as SetupTools),
    loadPools: () => Promise.resolve(fake.pools as PoolTools),
    readSecret: () => Promise.resolve(fake.secret),
    hideArguments: () => {
      fake.hidden = true;
    },
    readFileFrom: (path, offsetBytes) => {
      const text = fake.files.get(path);
      return Promise.resolve(text === undefined ? null : { text: text.slice(offsetBytes), nextBytes: text.length });
    },
    environment: () => null,
    fileSizeBytes: (path) => Promise.resolve(fake.files.get(path)?.length ?? null),
  };
  const code = await runCli(argv, world);
  return { code, ...printed };
}

/** Three serving nodes n1 to n3 that keep renewing, n2 leading; guest 100 `ehr-db` runs on n1 with copies on n2 and n3. */
export function createHealthyCluster(): FakeWorld {
  const fake = createFakeWorld();
  fake.store.put(keys.manager, { node: 'n2', epoch: 4, sinceAtMs: 0 });
  for (const node of ['n1', 'n2', 'n3']) putNode(fake, node);
  putGuest(fake);
  fake.onSleep = () => ['n1', 'n2', 'n3'].forEach((node) => beat(fake, node));
  return fake;
}

export function beat(fake: FakeWorld, node: string): void {
  const heartbeat: Heartbeat = {
    seq: 1,
    epoch: 3,
    bootId: 'b',
    phase: 'serving',
    agentSilentMs: 300,
    load: { guestsRunning: 1, memoryUsedMb: 512 },
    sentAtMs: fake.nowMs,
  };
  fake.store.put(keys.nodeHeartbeat(node), heartbeat);
}

function putNode(fake: FakeWorld, node: string): void {
  const permit: Permit = { state: 'granted', epoch: 3, bootId: 'b', claimMs: 15_000, grantedAtMs: 0 };
  const info: NodeInfo = {
    name: node,
    address: '10.77.0.1',
    relayPort: 7711,
    bootId: 'b',
    accelerator: 'kvm',
    qemuVersion: '7.2.22',
    cores: 4,
    memoryMb: 8_192,
    watchdog: { device: '/dev/watchdog0', timeoutMs: 6_000 },
    primaryCopies: [],
    problems: [],
  };
  fake.store.put(keys.nodePermit(node), permit);
  fake.store.put(keys.nodeInfo(node), info);
  beat(fake, node);
}

function putGuest(fake: FakeWorld): void {
  const guest: GuestRecord = {
    vmid: 100,
    name: 'ehr-db',
    config: {
      cores: 2,
      memoryMb: 1_024,
      disks: [{ name: 'disk0', sizeBytes: 2 ** 31 }],
      nics: [{ mac: '52:54:00:00:00:01', bridge: 'br0' }],
      boot: { kernel: 'vmlinuz', initrd: 'initrd', append: 'quiet' },
    },
    home: 'n1',
    generation: 1,
    order: { id: 1, kind: 'run', nodeEpoch: 3, managerEpoch: 4, promote: null, lostAtMs: null, issuedAtMs: 0 },
  };
  const resource: HaResource = { vmid: 100, want: 'started', maxDataAgeMs: null };
  const status: HaStatus = {
    vmid: 100,
    node: 'n1',
    generation: 1,
    nodeEpoch: 3,
    state: 'running',
    because: 'as ordered',
    atMs: 0,
    qemuStartedAtMs: 0,
    promoted: null,
  };
  fake.store.put(keys.guest(100), guest);
  fake.store.put(keys.haResource(100), resource);
  fake.store.put(keys.haStatus(100), status);
  for (const node of ['n2', 'n3']) {
    const copy: ReplicaRecord = {
      vmid: 100,
      node,
      source: 'n1',
      point: { generation: 1, seq: 12 },
      pointAtMs: fake.nowMs - 20_000,
      appliedAtMs: fake.nowMs - 19_500,
      lastCycle: { kind: 'delta', bytes: 3 << 20, tookMs: 320, pausedMs: 11 },
      leftBehind:
        node === 'n3' ? [{ name: 'left-behind-g1', generation: 1, sizeBytes: 5 << 20, fromAtMs: 10_000, untilAtMs: 52_000 }] : [],
    };
    fake.store.put(keys.replica(100, node), copy);
  }
}

/** Plays the agent: each request goes through `states`, one at each sleep of the command; keeps what it saw. */
export function playAgent(fake: FakeWorld, states: RequestState[]): RequestRecord[] {
  const seen: RequestRecord[] = [];
  const before = fake.onSleep;
  const left = [...states];
  fake.onSleep = () => {
    before();
    void fake.store.list(prefixes.requests).then(({ entries }) => {
      const entry = entries[0];
      const state = entry === undefined ? undefined : left.shift();
      if (entry === undefined || state === undefined) return;
      const request = JSON.parse(entry.value) as RequestRecord;
      if (seen.length === 0) seen.push(request);
      fake.store.put(entry.key, { ...request, ...state });
    });
  };
  return seen;
}

/** Plays the manager: answers each command at the next sleep and does `after` in the same instant; keeps what it was told. */
export function playManager(
  fake: FakeWorld,
  answer: Pick<HaCommand, 'state' | 'because'>,
  after: (command: HaCommand) => void = () => {},
): HaCommand[] {
  const seen: HaCommand[] = [];
  const before = fake.onSleep;
  fake.onSleep = () => {
    before();
    void fake.store.list(prefixes.haCommands).then(({ entries }) => {
      for (const entry of entries) {
        const command = JSON.parse(entry.value) as HaCommand;
        if (command.state !== 'waiting') continue;
        seen.push(command);
        fake.store.put(entry.key, { ...command, ...answer });
        after(command);
      }
    });
  };
  return seen;
}

/** A request under way. */
export const running: RequestState = {
  state: 'running',
  progress: { text: 'copying disk0', doneBytes: 2 ** 20, totalBytes: 2 ** 31 },
};

/** The keys under a prefix, in order. */
export async function listKeys(fake: FakeWorld, prefix: string): Promise<string[]> {
  return (await fake.store.list(prefix)).entries.map((entry) => entry.key);
}
