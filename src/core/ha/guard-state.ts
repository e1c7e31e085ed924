import type { Permit } from '#core/ha/records.ts';
import type { Timing } from '#core/ha/timing.ts';

/**
 * What a node's guard is doing.
 *
 *                 same boot still holds the permit: renewal acknowledged
 *            ┌───────────────────────────────────────────────────────────┐
 *   ╔══════════╗   every older group gone, watchdog fits, epoch+1 taken  ▼
 *   ║ starting ║ ─────────────────────────────────────────────────► ┌─────────┐
 *   ╚══════════╝ ◄──────────── group killed, empty, removed ─────┐  │ serving │ ◄────────────┐
 *     │      │ groups of an epoch that is not ours               │  └─────────┘              │
 *     │      └──────────────────────────────────────► ┌──────────┐    │   │ now >= sent+soft  │ renewed under the
 *     │                           permit lost ──────► │ clearing │ ◄──┘   ▼                   │ SAME epoch: thaw
 *     │                                               └──────────┘    ┌──────────┐            │
 *     │                                                     ▲ ◄────── │ freezing │ ───────────┤
 *     │ release asked, clean stop,                          │         └──────────┘            │
 *     │ watchdog unfit (from serving and frozen too)        │   kernel  │      │ not         │
 *     ▼                                                     │  confirms ▼      │ confirmed   │
 *   ┌───────────┐  group gone, permit given back  ┌──────────┐    ┌────────┐   │ in time     │
 *   │ releasing │ ──────────────────────────────► │ released │    │ frozen │ ──┼─────────────┘
 *   └───────────┘                                 └──────────┘    └────────┘   ▼
 *                        disarmed; waits, or exits                         ╔════════╗
 *                                                                          ║ doomed ║ nobody pets: hardware resets
 *                                                                          ╚════════╝
 *
 * The normal day: starting -> serving, a renewal each `renew`, a pet each tick. A store that is away for longer than `soft`:
 * serving -> freezing -> frozen -> serving, and the guests lost seconds, not their memory.
 *
 * While the manager's key nodes/NAME/disarm is there:
 *
 *   ┌─────────┐  key seen; a heartbeat `disarmed` is acknowledged within the limit   ┌──────────┐ watchdog closed; no limit,
 *   │ serving │ ───────────────────────────────────────────────────────────────────► │ disarmed │ no freeze, no kill; renews
 *   └─────────┘                                                                      └──────────┘ as `disarmed`
 *        ▲  heartbeat `serving` acknowledged  ┌────────┐  key seen gone                   │
 *        └─────────────────────────────────── │ arming │ ◄────────────────────────────────┘
 *                                             └────────┘ guard.json says so, watchdog opened, only then is `serving` sent
 *
 * Why no guest runs twice: whoever claims by silence compares the revision of the heartbeat that it judged, so it has seen its phase,
 * and a `disarmed` one is never claimed by silence. It is enough that a guard that guards nothing has `disarmed` as its newest heartbeat:
 * - it lets go only after that heartbeat was acknowledged. Every commit compares the heartbeat, so whatever was sent earlier is dead.
 * - no other phase is sent over it before the watchdog is open (`mayWrite` in guard-rules.ts), and from that instant on the soft limit holds.
 * - guard.json says `disarmed` only while no other phase was sent since: a later guard of the same boot goes by it and leaves the guests alone,
 *   also without the store. It stands until the watchdog may be opened, and is replaced before anything else is sent.
 * What is left are proofs that the guests are dead (power off, new boot) or were given up (release); for those nobody need guard.
 *
 * `freezeAsked`: a freeze was written in this mode, so that a "frozen" read from now on is its answer and not what is left from
 * before a thaw.
 */
export type GuardMode =
  | { kind: 'starting'; sinceBootMs: number; freezeAsked: boolean; rival: Rival | null }
  /** `renewedBootMs`: when the newest acknowledged renewal was SENT. `thawedBootMs`: last thaw in this epoch. */
  | { kind: 'serving'; sinceBootMs: number; epoch: number; renewedBootMs: number; thawedBootMs: number | null }
  | { kind: 'freezing'; sinceBootMs: number; freezeAsked: boolean; epoch: number }
  | { kind: 'frozen'; sinceBootMs: number; epoch: number }
  | { kind: 'disarmed'; sinceBootMs: number; epoch: number; thawedBootMs: number | null }
  /** `carriedBootMs`: until then surely no heartbeat but a `disarmed` one was in the store; null: up to now none can have come. */
  | { kind: 'arming'; sinceBootMs: number; epoch: number; carriedBootMs: number | null }
  /** `stilled`: the kernel confirmed the guests frozen before or while they were killed; they execute nothing any more. */
  | { kind: 'clearing'; sinceBootMs: number; freezeAsked: boolean; stilled: boolean }
  /** `limitBootMs`: until then the last renewal still carries the guests; null: nothing carries them. */
  | {
      kind: 'releasing';
      sinceBootMs: number;
      freezeAsked: boolean;
      kill: boolean;
      reason: string;
      limitBootMs: number | null;
      until: ReleasedUntil;
    }
  | { kind: 'released'; sinceBootMs: number; reason: string; until: ReleasedUntil }
  | { kind: 'doomed'; sinceBootMs: number };

/** What makes a guard that gave its permit back serve again. `restart`: only a new guard process; `exit`: it ends itself. */
export type ReleasedUntil = 'request-gone' | 'agent-back' | 'restart' | 'exit';

/** A permit granted to another boot of this node name: an earlier boot stays silent, a second machine of that name does not. */
export type Rival = { bootId: string; heartbeatRevision: bigint; sinceBootMs: number; seenAlive: boolean };

/** The keys of this node as one read at one revision showed them, carried on by our own commits. */
export type RecordSight = {
  permit: { value: Permit; modRevision: bigint } | null;
  heartbeat: { text: string; seq: number; disarmed: boolean; modRevision: bigint } | null;
  release: { reason: string; modRevision: bigint } | null;
  disarm: { mode: string; modRevision: bigint } | null;
};

export type StoreCallKind = 'look' | 'renew' | 'take' | 'release';

/** `sentBootMs` is taken before the call leaves. `heartbeat`, `permit`: what the call writes; null: it does not. */
export type PendingCall = {
  kind: StoreCallKind;
  sentBootMs: number;
  epoch: number;
  heartbeat: string | null;
  /** The heartbeat says `disarmed`. */
  disarmed: boolean;
  permit: Permit | null;
};

/** The guard's view of the store. At most one call is in flight. */
export type StoreSide = {
  /** null: look before anything else (nothing read yet, or an answer was lost or a compare failed). */
  sight: RecordSight | null;
  pending: PendingCall | null;
  /** A renewal or take whose answer was lost: if the next look finds its very value, it was acknowledged after all. */
  unsure: PendingCall | null;
  nextCallBootMs: number;
  lookedBootMs: number;
  /** Deadline of the next call. Grows while answers are late, so that a slow store is slow and not absent. */
  callMs: number;
};

export type GuardState = { mode: GuardMode; store: StoreSide };

export type StoreAnswer =
  | { kind: 'sight'; sight: RecordSight }
  | { kind: 'committed'; revision: bigint }
  | { kind: 'conflict' }
  /** No usable answer: whatever was written may or may not be there. */
  | { kind: 'failed'; problem: string };

export type GroupFact = { epoch: number; frozen: boolean; populated: boolean };

export type WatchdogFact =
  /** `leftCounting`: not opened by this process; an earlier one of this boot may have left it counting. */
  | { kind: 'closed'; leftCounting: boolean }
  /** `stuckArmed`: disarming was tried and the device refuses it. */
  | { kind: 'open'; timeoutMs: number; stuckArmed: boolean }
  | { kind: 'failed'; problem: string };

export type GuardFacts = {
  self: { node: string; bootId: string; timing: Timing };
  /** For people only. */
  wallMs: number;
  /** The answer to the pending call, handed over exactly once; null: none yet. */
  answer: StoreAnswer | null;
  groups: GroupFact[];
  watchdog: WatchdogFact;
  agent: { atBootMs: number; load: { guestsRunning: number; memoryUsedMb: number } } | null;
  /** Reason in the local release request; null: none. */
  releaseAsked: string | null;
  /** Asked to end cleanly. */
  stop: boolean;
  /** Asked to end at once and leave the guests and the armed watchdog to a successor. */
  handOver: boolean;
  /** guard.json says `disarmed` at this instant: a guard that comes after a crash will go by it. */
  fileSaysDisarmed: boolean;
};

/**
 * Orders to the loop. `notAfterBootMs`: the loop reads the clock once more right before it acts and does nothing at or after it;
 * null: there is no such limit because the guests are confirmed still, or disarmed.
 */
export type GuardEffect =
  | { kind: 'open-watchdog'; notAfterBootMs: number | null; whenRefused: 'disarm' | 'keep-armed' }
  | { kind: 'pet'; notAfterBootMs: number | null }
  | { kind: 'disarm' }
  | { kind: 'create-group'; epoch: number; notAfterBootMs: number }
  | { kind: 'thaw'; epoch: number; notAfterBootMs: number | null }
  | { kind: 'freeze' | 'kill' | 'remove-group'; epoch: number }
  | { kind: 'look'; deadlineMs: number }
  | {
      kind: 'commit';
      call: StoreCallKind;
      compares: { key: string; modRevision: bigint }[];
      writes: { key: string; value: string | null }[];
      deadlineMs: number;
    }
  | { kind: 'exit' };

export type GuardPlan = { next: GuardState; effects: GuardEffect[]; because: string[] };
