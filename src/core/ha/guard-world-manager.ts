import { noEvidence, type planClaim, type PowerEvidence } from '#core/ha/claim.ts';
import type { Surroundings } from '#core/ha/guard-world-faults.ts';
import type { WorldStore } from '#core/ha/guard-world-store.ts';
import { keys } from '#core/ha/keys.ts';
import type { DisarmOrder, Heartbeat, Permit, ReleaseOrder } from '#core/ha/records.ts';
import type { Timing } from '#core/ha/timing.ts';

const readsApartMs = 300;

/**
 * A manager that is as eager as the rules let it be: it sees each heartbeat at once, on the fastest clock that the profile allows, and
 * claims at the first instant it may. It also carries the orders of people to the store.
 */
export class WorldManager {
  claims = 0;
  private seen = { revision: -1n, atMs: 0 };
  private readonly node: string;
  private readonly timing: Timing;
  private readonly store: WorldStore;
  private readonly around: Surroundings;
  private readonly planClaim: typeof planClaim;

  constructor(node: string, timing: Timing, store: WorldStore, around: Surroundings, rule: typeof planClaim) {
    this.node = node;
    this.timing = timing;
    this.store = store;
    this.around = around;
    this.planClaim = rule;
  }

  /** `offSinceMs`: since when the node has no power; null: it has. */
  step(offSinceMs: number | null): void {
    const { node, store, around } = this;
    const heartbeat = store.read<Heartbeat>(keys.nodeHeartbeat(node));
    const permit = store.read<Permit>(keys.nodePermit(node));
    this.order(keys.nodeDisarm(node), around.is('disarmed'), {
      mode: 'hold',
      managerEpoch: 1,
      askedAtMs: 0,
    } satisfies DisarmOrder);
    if (heartbeat === null || permit === null) return;
    const revision = store.record.get(keys.nodeHeartbeat(node))?.modRevision ?? 0n;
    if (revision !== this.seen.revision) this.seen = { revision, atMs: around.nowMs };
    if (around.is('release-ordered') && permit.state === 'granted') {
      this.order(keys.nodeRelease(node), true, {
        reason: 'agent silent',
        managerEpoch: 1,
        askedAtMs: 0,
      } satisfies ReleaseOrder);
    }
    this.claim(permit, heartbeat, offSinceMs);
  }

  private order(key: string, stands: boolean, value: DisarmOrder | ReleaseOrder): void {
    if (this.store.record.has(key) !== stands) this.store.write([{ key, value: stands ? JSON.stringify(value) : null }]);
  }

  private claim(permit: Permit, heartbeat: Heartbeat, offSinceMs: number | null): void {
    const { node, timing, seen } = this;
    const { nowMs } = this.around;
    const silentMs = Math.floor((nowMs - seen.atMs) * (1 + timing.clockRatePercent / 100));
    const controller = offSinceMs === null ? null : { name: 'bmc', evidence: evidenceOf(offSinceMs, nowMs) };
    const facts = { permit, heartbeat, silence: { kind: 'counted', silentMs }, lastSightBootMs: seen.atMs, controller } as const;
    const decision = this.planClaim({ name: node, ...facts }, timing, readsApartMs, 'n2', nowMs);
    if (decision.kind !== 'claim') return;
    const { epoch } = permit;
    const claimed = {
      state: 'revoked',
      epoch: epoch + 1,
      revokedEpoch: epoch,
      proof: decision.proof,
      managerEpoch: 1,
      revokedAtMs: nowMs,
    } satisfies Permit;
    this.claims += 1;
    this.store.write([{ key: keys.nodePermit(node), value: JSON.stringify(claimed) }]);
  }
}

/** A controller that is read all the time, and says off twice. */
function evidenceOf(offSinceMs: number, nowMs: number): PowerEvidence {
  const read = (atMs: number) => ({ power: 'off', askedAtBootMs: atMs, answeredAtBootMs: atMs }) as const;
  return { ...noEvidence, reads: [read(offSinceMs), read(nowMs)] };
}
