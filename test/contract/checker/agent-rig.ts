import { createHash } from 'node:crypto';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { createClock } from '#adapters/clock/boot-clock.ts';
import { createHypervisor } from '#adapters/qemu/hypervisor.ts';
import { connectQmp } from '#adapters/qmp/qmp-client.ts';
import type { GuestOrder, GuestRecord } from '#core/guest/guest-record.ts';
import { keys } from '#core/ha/keys.ts';
import type { GuestState } from '#core/ha/manager/memory.ts';
import type { HaResource, HaStatus, Permit } from '#core/ha/records.ts';
import { currentDepths } from '#core/storage/manifest.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import { createBell } from '#programs/agent/bell.ts';
import { createGuestLoop, type GuestLoop } from '#programs/agent/guest-loop.ts';
import type { GuestLoopOptions } from '#programs/agent/guest-world.ts';
import { createNodeEnd, type NodeEnd } from '#programs/agent/node-end.ts';
import { createNodeMode, type NodeMode } from '#programs/agent/node-mode.ts';
import { followWorld } from '#programs/agent/world.ts';
import { createMemoryStore, type MemoryStore } from '../../fakes/memory-store.ts';
import { makeBench, makeEpoch, noNetwork } from '../hypervisor-bench.ts';
import { imageUser } from './dir-rig.ts';
import { buildRig, type Rig, type RigNode } from './node-rig.ts';
import { numberDisk, type Numbers, readNumbers, writeNumberDisk } from './number-guest.ts';
import { until } from './until.ts';

/** The nodes' present boot. */
const bootId = 'b';

/** The epoch under which each node's guests run in these tests. */
const epoch = 1;

/** What an agent does at the edge; a test may put a fault in its way. */
export type AgentEdge = Pick<GuestLoopOptions, 'store' | 'storage' | 'replication' | 'hypervisor'>;

/** One node's guest loop on real QEMU, storage and replication. */
export type RigAgent = {
  name: string;
  loop: GuestLoop;
  nodeMode: NodeMode;
  nodeEnd: NodeEnd;
  logged: { event: string; [field: string]: unknown }[];
  /** The loop is gone as if its process had been killed; QEMU goes on. */
  crash(): Promise<void>;
};

/** Two or more nodes with agents, and a store in memory in which the test stands for the manager. */
export type AgentRig = {
  rig: Rig;
  store: MemoryStore;
  node(name: string): RigNode;
  startAgent(name: string, edge?: (edge: AgentEdge) => AgentEdge): RigAgent;
  createGuest(vmid: number, home: string): Promise<void>;
  record(vmid: number): Promise<GuestRecord>;
  status(vmid: number): Promise<HaStatus | null>;
  /** Writes a new order for the guest where it is at home. Returns its number. */
  order(vmid: number, order: Pick<GuestOrder, 'kind' | 'to' | 'timeoutMs' | 'promote'>): Promise<number>;
  /** The manager's entry for the guest, as far as its state goes. */
  enter(vmid: number, state: GuestState): Promise<void>;
  /** Makes another node the home, from what the last one gave up. */
  rehome(vmid: number, to: string): Promise<void>;
  /** Returns when the order has ended, with how. */
  ended(vmid: number, orderId: number): Promise<HaStatus>;
  givenUp(vmid: number): Promise<NonNullable<GuestRecord['givenUp']>>;
  /** What the guest's disk holds on the node, its checksum with it. Reads the copy as it lies there. */
  look(name: string, vmid: number): Promise<Numbers & { sha256: string }>;
};

export async function buildAgentRig(t: TestContext, names: string[]): Promise<AgentRig> {
  const agents = new Set<RigAgent>();
  // Before the benches clear their cgroups, in the order in which these are told: an agent that sees its guest die starts it again.
  t.after(async () => {
    for (const agent of agents) await agent.crash();
  });
  const benches = new Map(names.map((name) => [name, makeBench(t)]));
  const rig = await buildRig(names);
  t.after(() => rig[Symbol.asyncDispose]());
  const store = createMemoryStore();
  let nextOrder = 1;
  let looks = 0;
  for (const name of names) {
    makeEpoch(benches.get(name)!, epoch);
    const permit: Permit = { state: 'granted', epoch, bootId, claimMs: 15_000, grantedAtMs: 0 };
    await put(keys.nodePermit(name), permit);
  }

  async function put(key: string, value: unknown): Promise<void> {
    const current = await store.read(key);
    const compare = { key, modRevision: current?.modRevision ?? 0n };
    const outcome = await store.commit([compare], [{ key, value: JSON.stringify(value) }]);
    if (outcome.kind !== 'committed') return await put(key, value);
  }

  async function get<T>(key: string): Promise<T | null> {
    const entry = await store.read(key);
    return entry === null ? null : (JSON.parse(entry.value) as T);
  }

  async function record(vmid: number): Promise<GuestRecord> {
    const found = await get<GuestRecord>(keys.guest(vmid));
    if (found === null) throw new Error(`no guest ${vmid}`);
    return found;
  }

  async function putRecord(next: GuestRecord): Promise<void> {
    rig.record.home.set(next.vmid, { node: next.home, generation: next.generation });
    await put(keys.guest(next.vmid), next);
  }

  function makeOrder(change: Pick<GuestOrder, 'kind' | 'to' | 'timeoutMs' | 'promote'>): GuestOrder {
    return { id: nextOrder++, nodeEpoch: epoch, managerEpoch: 1, lostAtMs: null, issuedAtMs: 0, ...change };
  }

  function startAgent(name: string, change?: (edge: AgentEdge) => AgentEdge): RigAgent {
    const node = rig.node(name);
    const stop = new AbortController();
    const clock = createClock();
    const bell = createBell();
    const logged: RigAgent['logged'] = [];
    const log = (fields: object, text: string) => void logged.push({ event: '', ...fields, text });
    const ownStore = store.connect();
    const hypervisor = createHypervisor({
      ...imageUser,
      dataDir: node.directory,
      runDir: node.run,
      cgroupDir: benches.get(name)!.cgroupDir,
      accelerator: 'tcg',
      network: noNetwork,
      connectQmp,
    });
    const { world } = followWorld({ store: ownStore, clock, onChange: () => bell.ring(), onTrouble: () => {} }, stop.signal);
    const edge: AgentEdge = { store: ownStore, storage: node.storage, replication: node.replication, hypervisor };
    const nodeMode = createNodeMode({ self: name, bootId, store: ownStore, clock, onChange: () => bell.ring() });
    const loop = createGuestLoop({
      self: name,
      world,
      clock,
      bell,
      readEpoch: () => (nodeMode.isLoaded() ? epoch : null),
      readEnding: () => nodeMode.ending(),
      log: { info: log, warn: log },
      ...(change?.(edge) ?? edge),
    });
    const agent: RigAgent = {
      name,
      loop,
      nodeMode,
      nodeEnd: createNodeEnd({ self: name, world, clock, nodeMode, guests: loop, log: { info: log } }),
      logged,
      async crash() {
        stop.abort();
        agents.delete(agent);
        for (const guest of loop.running()) {
          await node.replication.stopGuest(guest.vmid);
          guest.qmp.close();
        }
      },
    };
    agents.add(agent);
    void nodeMode.load(stop.signal);
    void loop.run(stop.signal);
    return agent;
  }

  return {
    rig,
    store,
    node: (name) => rig.node(name),
    startAgent,
    async createGuest(vmid, home) {
      const image = join(rig.path, `numbers-${vmid}.raw`);
      writeNumberDisk(image);
      await rig.node(home).storage.create(vmid, 1, [{ ...numberDisk, importFile: image }]);
      const config = { cores: 1, memoryMb: 64, disks: [{ ...numberDisk }], nics: [], boot: null };
      await put(keys.haResource(vmid), { vmid, want: 'started', maxDataAgeMs: null } satisfies HaResource);
      await putRecord({ vmid, name: 'numbers', config, home, generation: 1, order: null });
    },
    record,
    status: (vmid) => get<HaStatus>(keys.haStatus(vmid)),
    async order(vmid, change) {
      const { givenUp: _over, ...rest } = await record(vmid);
      const order = makeOrder(change);
      await putRecord({ ...rest, order });
      return order.id;
    },
    async enter(vmid, state) {
      const before = await record(vmid);
      const entry = { node: before.home, orderId: 0, failedNodes: [], returnTo: null, command: null, sinceMs: 0, because: '' };
      await putRecord({ ...before, ha: { ...entry, state } });
    },
    async rehome(vmid, to) {
      const { givenUp, ...rest } = await record(vmid);
      if (givenUp === undefined) throw new Error(`guest ${vmid} was not given up`);
      const order = makeOrder({ kind: 'run', promote: givenUp.point });
      await putRecord({ ...rest, home: to, generation: rest.generation + 1, order });
    },
    ended: (vmid, orderId) =>
      until(`order ${orderId} ends`, 30_000, async () => {
        const status = await get<HaStatus>(keys.haStatus(vmid));
        return status?.end?.orderId === orderId ? status : null;
      }),
    givenUp: (vmid) => until(`guest ${vmid} is given up`, 60_000, async () => (await record(vmid)).givenUp),
    async look(name, vmid) {
      const out = join(rig.path, `look-${looks++}`);
      const [file = ''] = await rig.node(name).storage.exportImage(vmid, currentDepths, out);
      const sha256 = createHash('sha256').update(readFileSync(file)).digest('hex');
      const numbers = readNumbers(file);
      rmSync(out, { recursive: true });
      return { ...numbers, sha256 };
    },
  };
}

/** `target` whose named step never comes back to who asked for it, once it is done. */
export function hangAfter<T extends object>(target: T, name: keyof T & string, onDone: () => void): T {
  const original = target[name] as (...args: unknown[]) => Promise<unknown>;
  const hanging = async (...args: unknown[]): Promise<never> => {
    await original.apply(target, args);
    onDone();
    return await new Promise<never>(() => {});
  };
  return { ...target, [name]: hanging };
}

/** Every guest that the hypervisor starts or finds is seen through `change`. */
export function changeGuests(
  hypervisor: AgentEdge['hypervisor'],
  change: (guest: RunningGuest) => RunningGuest,
): AgentEdge['hypervisor'] {
  return {
    start: async (order) => change(await hypervisor.start(order)),
    adopt: async () => (await hypervisor.adopt()).map(change),
  };
}
