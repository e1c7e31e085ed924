import { AppError } from '#base/error.ts';
import { assert } from '#base/assert.ts';
import { limits } from '#base/limits.ts';
import type { GuardEffect, GuardFacts, PendingCall, RecordSight, StoreCallKind, StoreSide } from '#core/ha/guard-state.ts';
import { keys } from '#core/ha/keys.ts';
import type { GuardPhase, Heartbeat, PastClaim, Permit } from '#core/ha/records.ts';
import type { Timing } from '#core/ha/timing.ts';

/** What a mode wants of the store now. `reason` is kept as the proof of a release. */
export type StoreWish = { kind: Exclude<StoreCallKind, 'release'> } | { kind: 'release'; reason: string };

/** A renewal (or a take, which carries one) that is known to be in the store, timed from when it was sent. */
export type Renewed = { epoch: number; sentBootMs: number; disarmed: boolean };

export function startStoreSide(timing: Timing, nowBootMs: number): StoreSide {
  return {
    sight: null,
    pending: null,
    unsure: null,
    nextCallBootMs: nowBootMs,
    lookedBootMs: nowBootMs - timing.renewMs,
    callMs: firstCallMs(timing),
  };
}

/** Makes the sight from the entries under the node's prefix. Raises AppError invalid naming the key that is not what it should be. */
export function readSight(node: string, entries: { key: string; value: string; modRevision: bigint }[]): RecordSight {
  const find = (key: string) => entries.find((entry) => entry.key === key);
  const permit = find(keys.nodePermit(node));
  const heartbeat = find(keys.nodeHeartbeat(node));
  const release = find(keys.nodeRelease(node));
  const disarm = find(keys.nodeDisarm(node));
  return {
    permit: permit === undefined ? null : { value: readPermit(permit.key, permit.value), modRevision: permit.modRevision },
    heartbeat: heartbeat === undefined ? null : readHeartbeat(heartbeat),
    release:
      release === undefined
        ? null
        : { reason: String(parseRecord(release.key, release.value).reason), modRevision: release.modRevision },
    disarm:
      disarm === undefined ? null : { mode: String(parseRecord(disarm.key, disarm.value).mode), modRevision: disarm.modRevision },
  };
}

/**
 * Takes the answer of the call in flight into the view of the store. `renewed` is set when a renewal is now known to have been
 * committed under its epoch; it counts from when it was sent, however late we hear of it.
 */
export function foldAnswer(
  store: StoreSide,
  facts: GuardFacts,
  nowBootMs: number,
): { store: StoreSide; renewed: Renewed | null } {
  const { answer } = facts;
  if (answer === null) return { store, renewed: null };
  const { pending } = store;
  assert(pending !== null, `an answer came (${answer.kind}) and no call was in flight`);
  const { timing } = facts.self;
  const idle = { ...store, pending: null };
  switch (answer.kind) {
    case 'sight': {
      const seen = { ...idle, ...answered(pending, timing, nowBootMs), sight: answer.sight, unsure: null };
      return { store: seen, renewed: wasWritten(store.unsure, answer.sight, facts.self.bootId) };
    }
    case 'committed': {
      const done = { ...idle, ...answered(pending, timing, nowBootMs), unsure: null };
      const sight = store.sight === null ? null : carryOn(store.sight, pending, answer.revision);
      const renewed = pending.kind === 'release' ? null : renewalOf(pending);
      return { store: { ...done, sight, nextCallBootMs: pending.sentBootMs + timing.renewMs }, renewed };
    }
    case 'conflict':
      return { store: { ...idle, ...answered(pending, timing, nowBootMs), sight: null, unsure: null }, renewed: null };
    case 'failed':
      return { store: { ...idle, ...failed(store, pending, timing) }, renewed: null };
  }
}

/**
 * The next call, when none is in flight and one is due. `wish` null: none is wanted. Without a sight every wish begins with a look.
 */
export function planCall(
  store: StoreSide,
  wish: StoreWish | null,
  phase: GuardPhase,
  facts: GuardFacts,
  nowBootMs: number,
): { store: StoreSide; effects: GuardEffect[] } {
  const none = { store, effects: [] };
  if (wish === null || store.pending !== null || nowBootMs < store.nextCallBootMs) return none;
  if (wish.kind === 'look' || store.sight === null) {
    const again = store.lookedBootMs + facts.self.timing.renewMs / 2;
    if (store.sight !== null && nowBootMs < again) return none;
    const pending: PendingCall = {
      kind: 'look',
      sentBootMs: nowBootMs,
      epoch: 0,
      heartbeat: null,
      disarmed: false,
      permit: null,
    };
    return { store: { ...store, pending, lookedBootMs: nowBootMs }, effects: [{ kind: 'look', deadlineMs: store.callMs }] };
  }
  const { pending, effect } = planCommit(wish, store.sight, phase, facts, nowBootMs, store.callMs);
  return { store: { ...store, pending }, effects: [effect] };
}

/** The epoch that this boot of this node holds according to what was last seen; null: none, or nothing was seen. */
export function heldEpoch(sight: RecordSight | null, bootId: string): number | null {
  const permit = sight?.permit?.value;
  return permit?.state === 'granted' && permit.bootId === bootId ? permit.epoch : null;
}

/** The claims that the permit tells of, the newest last. A permit that the node's own guard gave back was not taken from it. */
export function listClaims(permit: Permit): PastClaim[] {
  const past = permit.pastClaims ?? [];
  if (permit.state !== 'revoked' || permit.proof.kind === 'released') return past;
  return [...past, { epoch: permit.revokedEpoch, atMs: permit.revokedAtMs }];
}

/** What of them the next permit goes on telling. */
export function keepClaims(before: Permit): Pick<Permit, 'pastClaims'> {
  const claims = listClaims(before).slice(-limits.pastClaimsKept);
  return claims.length === 0 ? {} : { pastClaims: claims };
}

/** Every write of a permit makes a greater epoch, so no epoch is ever granted twice. */
function nextEpoch(sight: RecordSight): number {
  return (sight.permit?.value.epoch ?? 0) + 1;
}

/**
 * Every commit compares permit AND heartbeat, so that each one that takes effect kills all that were sent before it and are still on
 * their way: a late release cannot revoke a permit that was renewed since, a late take cannot follow a newer one. It compares the
 * manager's two orders as well: nothing is written in ignorance of them.
 */
function planCommit(
  wish: Exclude<StoreWish, { kind: 'look' }>,
  sight: RecordSight,
  phase: GuardPhase,
  facts: GuardFacts,
  nowBootMs: number,
  deadlineMs: number,
): { pending: PendingCall; effect: GuardEffect } {
  const { node, bootId } = facts.self;
  const { kind } = wish;
  const epoch = kind === 'renew' ? (heldEpoch(sight, bootId) ?? 0) : nextEpoch(sight);
  assert(epoch > 0, `a renewal needs a permit that is held`);
  const heartbeat = kind === 'release' ? null : JSON.stringify(makeHeartbeat(sight, epoch, phase, facts, nowBootMs));
  const release = keys.nodeRelease(node);
  const compares = [
    { key: keys.nodePermit(node), modRevision: sight.permit?.modRevision ?? 0n },
    { key: keys.nodeHeartbeat(node), modRevision: sight.heartbeat?.modRevision ?? 0n },
    { key: release, modRevision: sight.release?.modRevision ?? 0n },
    { key: keys.nodeDisarm(node), modRevision: sight.disarm?.modRevision ?? 0n },
  ];
  const permit = wish.kind === 'renew' ? null : makePermit(wish, epoch, facts, sight.permit?.value ?? null);
  const writes: { key: string; value: string | null }[] = [];
  if (heartbeat !== null) writes.push({ key: keys.nodeHeartbeat(node), value: heartbeat });
  if (permit !== null) {
    writes.push({ key: keys.nodePermit(node), value: JSON.stringify(permit) });
    if (sight.release !== null) writes.push({ key: release, value: null });
  }
  return {
    pending: { kind, sentBootMs: nowBootMs, epoch, heartbeat, disarmed: heartbeat !== null && phase === 'disarmed', permit },
    effect: { kind: 'commit', call: kind, compares, writes, deadlineMs },
  };
}

/** A take writes a heartbeat in the same commit: an observer that timed the old silence must not claim the new epoch by it. */
function makeHeartbeat(sight: RecordSight, epoch: number, phase: GuardPhase, facts: GuardFacts, nowBootMs: number): Heartbeat {
  const { agent } = facts;
  return {
    seq: (sight.heartbeat?.seq ?? 0) + 1,
    epoch,
    bootId: facts.self.bootId,
    phase,
    agentSilentMs: agent === null ? null : Math.max(0, nowBootMs - agent.atBootMs),
    load: agent?.load ?? null,
    sentAtMs: facts.wallMs,
  };
}

function makePermit(wish: StoreWish, epoch: number, facts: GuardFacts, before: Permit | null): Permit {
  const past = before === null ? {} : keepClaims(before);
  const { bootId, timing } = facts.self;
  if (wish.kind !== 'release')
    return { state: 'granted', epoch, bootId, claimMs: timing.claimMs, grantedAtMs: facts.wallMs, ...past };
  const proof = { kind: 'released', reason: wish.reason } as const;
  return { state: 'revoked', epoch, revokedEpoch: epoch - 1, proof, managerEpoch: 0, revokedAtMs: facts.wallMs, ...past };
}

/** What our own commit made of the record: no need to read it again. */
function carryOn(sight: RecordSight, pending: PendingCall, modRevision: bigint): RecordSight {
  const { heartbeat: text, disarmed } = pending;
  const heartbeat = text === null ? sight.heartbeat : { text, seq: (sight.heartbeat?.seq ?? 0) + 1, disarmed, modRevision };
  if (pending.permit === null) return { ...sight, heartbeat };
  return { ...sight, permit: { value: pending.permit, modRevision }, heartbeat, release: null };
}

function wasWritten(unsure: PendingCall | null, sight: RecordSight, bootId: string): Renewed | null {
  if (unsure === null || unsure.heartbeat !== sight.heartbeat?.text) return null;
  return heldEpoch(sight, bootId) === unsure.epoch ? renewalOf(unsure) : null;
}

function renewalOf({ epoch, sentBootMs, disarmed }: PendingCall): Renewed {
  return { epoch, sentBootMs, disarmed };
}

function answered(pending: PendingCall, timing: Timing, nowBootMs: number): { nextCallBootMs: number; callMs: number } {
  const tookMs = nowBootMs - pending.sentBootMs;
  return { nextCallBootMs: nowBootMs, callMs: Math.min(Math.max(2 * tookMs, firstCallMs(timing)), longestCallMs(timing)) };
}

function failed(store: StoreSide, pending: PendingCall, timing: Timing): Partial<StoreSide> {
  return {
    sight: null,
    unsure: pending.heartbeat === null ? store.unsure : pending,
    nextCallBootMs: pending.sentBootMs + Math.max(limits.guardTickMs, timing.renewMs / 4),
    callMs: Math.min(2 * store.callMs, longestCallMs(timing)),
  };
}

function firstCallMs(timing: Timing): number {
  return Math.min(limits.etcdCallMs, longestCallMs(timing));
}

/** Half of soft: an answer this late still carries the guests for the other half. */
function longestCallMs(timing: Timing): number {
  return Math.floor(timing.softMs / 2);
}

function readPermit(key: string, text: string): Permit {
  const record = parseRecord(key, text);
  const epoch = wholeOf(key, text, 'epoch');
  if (record.state === 'granted' && typeof record.bootId === 'string') return { ...(record as Permit), epoch };
  if (record.state === 'revoked') return { ...(record as Permit), epoch };
  throw new AppError('invalid', `${key} is not a permit: state ${JSON.stringify(record.state)}`);
}

function readHeartbeat({
  key,
  value,
  modRevision,
}: {
  key: string;
  value: string;
  modRevision: bigint;
}): RecordSight['heartbeat'] {
  const disarmed = parseRecord(key, value).phase === ('disarmed' satisfies GuardPhase);
  return { text: value, seq: wholeOf(key, value, 'seq'), disarmed, modRevision };
}

function wholeOf(key: string, text: string, field: string): number {
  const value = parseRecord(key, text)[field];
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) {
    throw new AppError('invalid', `${key}: ${field} ${JSON.stringify(value)} is not a whole number`);
  }
  return value;
}

function parseRecord(key: string, text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
  } catch (error) {
    throw new AppError('invalid', `${key} is not JSON`, { cause: error });
  }
  throw new AppError('invalid', `${key} is not a record`);
}
