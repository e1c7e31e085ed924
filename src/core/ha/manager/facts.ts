import type { Rule } from '#core/ha/manager/rules.ts';

/**
 * What one round of the manager is told. Every field is something that was read or measured, or a setting; times are durations in
 * milliseconds or readings of one clock that the caller passes in, so the round itself never asks for the time.
 */

/** What a guest takes or a node has. `cores` may be a fraction; a guest that claims 0 cores may use a whole node's. */
export type Size = { cores: number; memoryBytes: number };

/** What an agent says of itself. Only `active` agents are given work without restriction. */
export type AgentMode = 'active' | 'restart' | 'shutdown' | 'maintenance' | 'disarm';

export type NodeFacts = {
  name: string;
  /** In the quorate set now: its heartbeats arrive. */
  present: boolean;
  /** Milliseconds since it was last seen present by whoever leads now; 0 while present. */
  lostMs: number;
  /** The mode its agent published last, also of an agent that has died since. */
  agentMode: AgentMode;
  /**
   * The node's permit. `held`: it may be running guests, nobody else may start them. `claimable`: a proof is at hand, the claim is
   * written before anything that rests on it. `claimed`: revoked, or never granted.
   */
  permit: 'held' | 'claimable' | 'claimed';
  /** Wall clock of its newest claim that its own guard did not ask for; null or left out: none that still stands. */
  claimedAtMs?: number | null;
  /** The epoch that this claim ended: what tells claims apart, since wall clocks of nodes do not. null or left out: not known. */
  claimedEpoch?: number | null;
  /** Claims before that one, oldest first, of which a manager may not have heard. */
  earlierClaims?: readonly { epoch: number; atMs: number }[];
  /** A controller says that it is off: nothing that ran there runs now. */
  confirmedOff: boolean;
  /** Its agent keeps a watchdog open. */
  watchdogOpen: boolean;
  size: Size;
  /** Why it may not receive guests although it is present (problems, a silent agent); null: it may. Those that run there stay. */
  refusal: string | null;
};

/** A verified copy of a guest's disks on a node. */
export type CopyFacts = {
  node: string;
  /**
   * Grows with the age order of copies: the greater, the fresher. Equal for copies of the same replicated point. Infinity: no copy but the
   * guest's own disks, on its node that is back.
   */
  freshness: number;
  /** Age of the data at the moment the guest was lost. */
  dataAgeMs: number;
};

/** What the operator wants of a guest; `ignored`: not managed at all. */
export type Want = 'started' | 'stopped' | 'disabled' | 'ignored';

export type GuestFacts = {
  id: string;
  /** The node that the guest's own record names. */
  home: string;
  want: Want;
  /** It can be moved while it runs. */
  movesLive: boolean;
  /** Starts that are tried on other nodes after one failed. */
  otherNodeTries: number;
  /** A better-ranked node that comes back pulls the guest back. */
  failback: boolean;
  claimed: Size;
  /** Measured use; null: it does not run, or nothing is known. */
  measured: Size | null;
  /** Left out: its disks can be reached from every node. Else a recovery goes only to a node that is listed here. */
  copies?: CopyFacts[];
  /** Nodes that found their copy unfit to start from; left out: none did. Nobody is moved there but by an operator. */
  unfitNodes?: readonly string[];
  /** Refuse to recover from data older than this; left out or null: any verified copy will do. */
  maxDataAgeMs?: number | null;
  /** How long a recovery waits for a fresher copy on a node that is away; left out: not at all. */
  betterCopyWaitMs?: number;
  /** Guests of a lower number are recovered first; left out: 0. */
  startOrder?: number;
  /** Guests that must run before this one is started or recovered; left out: none. */
  startsAfter?: readonly string[];
  /**
   * Nothing on its node can start it any more under its last order: that order's epoch is over, or the node declined it. It is
   * recovered without a fence, also onto the same node.
   */
  orderOver?: boolean;
  /** Its node tells that it runs there; left out: not known. */
  runs?: boolean;
  /** Its node gave it up while alive: it runs nowhere, the copies are current. Any new order ends that. */
  givenUp?: boolean;
};

/** How an order ended, told by the agent under the order's id. */
export type OrderResult =
  | 'ok'
  | 'failed'
  /** The guest's record names another node than the agent's. */
  | 'wrong-node'
  /** A move before the start was not needed: the guest runs already. */
  | 'skipped'
  /** No way to do it at all: the guest cannot be read. */
  | 'broken';

export type Command =
  | { kind: 'move'; guest: string; live: boolean; to: string }
  /** `timeoutMs` 0: killed at once; null: as long as the guest takes. */
  | { kind: 'stop'; guest: string; timeoutMs: number | null }
  | { kind: 'drain'; node: string }
  | { kind: 'undrain'; node: string }
  | { kind: 'disarm'; mode: 'hold' | 'hands-off' }
  | { kind: 'arm' }
  | { kind: 'release-quarantine'; node: string };

export type RebalanceSettings = {
  /** Standard deviation over mean of the nodes' loads above which a round counts as imbalanced. */
  threshold: number;
  method: 'bruteforce' | 'topsis';
  holdRounds: number;
  minRelativeGain: number;
};

export type ManagerSettings = {
  placement: 'count' | 'by-size' | 'by-load';
  balanceOnStart: boolean;
  autoRebalance: RebalanceSettings | null;
  /** A node lost for this long is claimed as soon as a guest needs it. */
  fenceAfterMs: number;
  /** A guest goes only to a node whose memory it fits in, with those that come with it (room.ts). */
  memoryMustFit: boolean;
  /**
   * A move by hand onto a node that a hard rule forbids is refused. The recorded manager takes it, and moves the guest back at once: a stop
   * and a start for nothing where guests do not move live.
   */
  refusesForbiddenMoves: boolean;
  /** A node claimed this often within the window is quarantined (quarantine.ts); 0: never. */
  quarantineAfter: number;
  quarantineWindowMs: number;
  /** How long a guest waits for those that it starts after. */
  startsAfterWaitMs: number;
  /** A guest whose move failed is left where it is for this long, unless an operator moves it or it cannot start there; 0: not at all. */
  moveRetryMs: number;
  /** For this long after a good start elsewhere a guest does not go back, of the manager's accord, to where its start failed; 0: not at all. */
  avoidFailedMs: number;
  /** Orders stand until they are replaced, and agents start a crashed guest again by themselves: an order that went well is not given again. */
  standingOrders: boolean;
};

export type ManagerFacts = {
  self: string;
  nowMs: number;
  /** The memory and the facts are known to be the newest; left out: they are. */
  isCurrent?: boolean;
  nodes: NodeFacts[];
  guests: GuestFacts[];
  rules: Rule[];
  commands: Command[];
  /** Results by order id. Ids that no guest's entry names are not looked at. */
  results: ReadonlyMap<number, OrderResult>;
  settings: ManagerSettings;
};
