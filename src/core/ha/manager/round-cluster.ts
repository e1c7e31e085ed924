import type { GuestFacts, ManagerFacts, ManagerSettings, NodeFacts } from '#core/ha/manager/facts.ts';

/** Plain facts for tests and measurements: nodes that are up, guests that are wanted started, nothing to do. */

const gib = 2 ** 30;

export function plainNode(name: string, patch: Partial<NodeFacts> = {}): NodeFacts {
  return {
    name,
    present: true,
    lostMs: 0,
    agentMode: 'active',
    permit: 'held',
    confirmedOff: false,
    watchdogOpen: true,
    size: { cores: 16, memoryBytes: 64 * gib },
    refusal: null,
    ...patch,
  };
}

export function plainGuest(id: string, home: string, patch: Partial<GuestFacts> = {}): GuestFacts {
  return {
    id,
    home,
    want: 'started',
    movesLive: true,
    otherNodeTries: 1,
    failback: true,
    claimed: { cores: 2, memoryBytes: 4 * gib },
    measured: null,
    ...patch,
  };
}

export const plainSettings: ManagerSettings = {
  placement: 'count',
  balanceOnStart: false,
  autoRebalance: null,
  fenceAfterMs: 15_000,
  memoryMustFit: false,
  standingOrders: false,
  refusesForbiddenMoves: false,
  startsAfterWaitMs: 120_000,
  moveRetryMs: 60_000,
  avoidFailedMs: 0,
  quarantineAfter: 0,
  quarantineWindowMs: 3_600_000,
};

export function plainFacts(patch: Partial<ManagerFacts> = {}): ManagerFacts {
  return {
    self: 'a',
    nowMs: 0,
    nodes: ['a', 'b', 'c'].map((name) => plainNode(name)),
    guests: [],
    rules: [],
    commands: [],
    results: new Map(),
    settings: plainSettings,
    ...patch,
  };
}
