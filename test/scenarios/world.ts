import { type AgentState, freshAgent } from '#core/ha/manager/agent-state.ts';
import { compileRules, type CompiledRules } from '#core/ha/manager/compiled-rules.ts';
import type { AgentMode, Command, OrderResult } from '#core/ha/manager/facts.ts';
import type { LeaderPhase } from '#core/ha/manager/leading.ts';
import { emptyMemory, type GuestEntry, type GuestState, type ManagerMemory } from '#core/ha/manager/memory.ts';
import type { Rule } from '#core/ha/manager/rules.ts';
import {
  type Faults,
  type GivenWorkload,
  type Scenario,
  type ScenarioFile,
  type ScenarioSize,
  toRule,
  type WantWord,
} from './scenario-file.ts';

/**
 * A simulated cluster with the recorded clock: hosts, their links, leases, watchdogs and workloads. It knows what is; everything
 * that is decided, is decided by the core.
 */
export type World = {
  scenario: Scenario;
  clock: ScenarioFile['clock'];
  defaults: ScenarioFile['defaults'];
  nowSeconds: number;
  /** In name order. */
  nodes: WorldNode[];
  guests: Map<string, WorldGuest>;
  rules: Rule[];
  compiled: CompiledRules;
  memory: ManagerMemory;
  commands: Command[];
  /** `manager`, and one per node for its agent. */
  leases: Map<string, { owner: string; takenAt: number }>;
  /** What each agent wrote last; outlives the agent. */
  published: Map<string, { mode: AgentMode; results: ReadonlyMap<number, OrderResult>; watchdogOpen: boolean }>;
  events: WorldEvent[];
  fencedNodes: string[];
  losses: { t: number; node: string; affected: string[] }[];
  doubleRun: boolean;
  /** Script lines that this replay does not know: its answer is worth nothing then. */
  unknownActions: string[];
};

export type WorldNode = {
  name: string;
  size: ScenarioSize;
  powered: boolean;
  linked: boolean;
  storeBroken: boolean;
  agent: AgentState | null;
  manager: { phase: LeaderPhase; lastSeen: Map<string, number>; stopping: boolean } | null;
  /** Seconds at which each daemon petted its watchdog last; null: closed. */
  agentPettedAt: number | null;
  managerPettedAt: number | null;
  shutdown: 'power-off' | 'reboot' | null;
  skips: { agent: number; manager: number };
};

export type WorldGuest = {
  id: string;
  kind: GivenWorkload['kind'];
  home: string;
  want: WantWord;
  localRetries: number;
  otherNodeTries: number;
  failback: boolean;
  size: ScenarioSize;
  load: ScenarioSize;
  faults: Faults | null;
  triedStarts: number;
  triedMoves: number;
  lock: string | null;
  /** Nodes where it executes: more than one is what must never be. */
  runsOn: Set<string>;
};

export type WorldEvent = { t: number; kind: string; node?: string; workload?: string; text?: string };

export function buildWorld(scenario: Scenario, file: ScenarioFile): World {
  const { given } = scenario;
  const rules = given.rules.map(toRule);
  const world: World = {
    scenario,
    clock: file.clock,
    defaults: file.defaults,
    nowSeconds: 0,
    nodes: given.nodes
      .map((node) => ({
        name: node.name,
        size: { cores: node.cores ?? file.defaults.nodeCores, memoryBytes: node.memoryBytes ?? file.defaults.nodeMemoryBytes },
        powered: node.upWithoutDaemons === true,
        linked: node.upWithoutDaemons === true,
        storeBroken: false,
        agent: null,
        manager: null,
        agentPettedAt: null,
        managerPettedAt: null,
        shutdown: null,
        skips: { agent: 0, manager: 0 },
      }))
      .sort((a, b) => (a.name < b.name ? -1 : 1)),
    guests: new Map(),
    rules,
    compiled: compileRules(
      rules,
      given.nodes.map((node) => node.name),
    ),
    memory: buildMemory(given.managerMemory),
    commands: [],
    leases: new Map(),
    published: new Map(),
    events: [],
    fencedNodes: [],
    losses: [],
    doubleRun: false,
    unknownActions: [],
  };
  for (const workload of given.workloads) addGuest(world, workload);
  return world;
}

export function addGuest(world: World, workload: GivenWorkload): WorldGuest {
  const { defaults } = world;
  const guest: WorldGuest = {
    id: workload.id,
    kind: workload.kind,
    home: workload.home,
    want: workload.want,
    localRetries: workload.localRetries ?? 1,
    otherNodeTries: workload.otherNodeTries ?? 1,
    failback: workload.failback ?? true,
    size: { cores: defaults.workloadCores, memoryBytes: defaults.workloadMemoryBytes, ...workload.size },
    load: { cores: defaults.loadCores, memoryBytes: defaults.loadMemoryBytes, ...workload.load },
    faults: workload.faults ?? null,
    triedStarts: 0,
    triedMoves: 0,
    lock: null,
    runsOn: new Set(),
  };
  world.guests.set(guest.id, guest);
  return guest;
}

function buildMemory(given: Scenario['given']['managerMemory']): ManagerMemory {
  const memory = emptyMemory();
  if (given === undefined) return memory;
  const guests = new Map<string, GuestEntry>();
  for (const [id, { state, node, to }] of Object.entries(given.workloads)) {
    guests.set(id, {
      state: buildState(state, to ?? null),
      node,
      orderId: guests.size + 1,
      failedNodes: [],
      returnTo: null,
      command: null,
      sinceMs: 0,
      because: 'left behind by an earlier leader',
    });
  }
  return { ...memory, nodes: new Map(Object.entries(given.nodes)), guests, nextOrderId: guests.size + 1 };
}

function buildState(kind: string, to: string | null): GuestState {
  const base = { kind, seenRunning: false, recovered: false, timeoutMs: null };
  return (to === null ? base : { ...base, to }) as unknown as GuestState;
}

/** Hosts that are on and linked, if they are more than half. */
export function isQuorate(world: World, node: WorldNode): boolean {
  return isPresent(node) && world.nodes.filter(isPresent).length > world.nodes.length / 2;
}

export function isPresent(node: WorldNode): boolean {
  return node.powered && node.linked;
}

/** True when `owner` could take or renew the lease now. */
export function isLeaseFree(world: World, name: string, owner: string): boolean {
  const lease = world.leases.get(name);
  return lease === undefined || lease.owner === owner || world.nowSeconds - lease.takenAt > world.clock.leaseLifetime;
}

export function takeLease(world: World, name: string, owner: string): void {
  world.leases.set(name, { owner, takenAt: world.nowSeconds });
}

export function releaseLease(world: World, name: string, owner: string): void {
  if (world.leases.get(name)?.owner === owner) world.leases.delete(name);
}

export function record(world: World, event: Omit<WorldEvent, 't'>): void {
  world.events.push({ t: world.nowSeconds, ...event });
}

export function findNode(world: World, name: string): WorldNode | undefined {
  return world.nodes.find((node) => node.name === name);
}

export function powerOn(world: World, node: WorldNode): void {
  if (node.powered) return;
  node.powered = true;
  node.linked = true;
  node.storeBroken = false;
  node.shutdown = null;
  startAgent(world, node);
  startManager(node);
}

export function startAgent(world: World, node: WorldNode): void {
  node.agent = freshAgent();
  record(world, { kind: 'agent-phase', node: node.name, text: 'idle' });
}

export function startManager(node: WorldNode): void {
  node.manager = { phase: 'waiting', lastSeen: new Map(), stopping: false };
}

/** The host stops at once: whatever ran on it does not run any more. Its leases and what it published stay. */
export function powerOff(world: World, node: WorldNode): void {
  node.powered = false;
  node.linked = false;
  node.agent = null;
  node.manager = null;
  node.agentPettedAt = null;
  node.managerPettedAt = null;
  node.shutdown = null;
  for (const guest of world.guests.values()) guest.runsOn.delete(node.name);
}

/** Resets the hosts whose watchdogs were not petted in time. */
export function checkWatchdogs(world: World): void {
  for (const node of world.nodes) {
    const pets = [node.agentPettedAt, node.managerPettedAt].filter((at) => at !== null);
    if (!pets.some((at) => world.nowSeconds - at > world.clock.watchdog)) continue;
    record(world, { kind: 'self-fenced', node: node.name });
    powerOff(world, node);
  }
}

/** A guest begins to execute on the node. */
export function setRunning(world: World, guest: WorldGuest, node: string): void {
  guest.runsOn.add(node);
  if (guest.runsOn.size > 1) world.doubleRun = true;
}
