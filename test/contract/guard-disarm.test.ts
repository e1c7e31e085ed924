import { strict as assert } from 'node:assert';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { keys } from '#core/ha/keys.ts';
import type { DisarmOrder, Heartbeat, Permit } from '#core/ha/records.ts';
import { node, startGuardNode, timing, type GuardNode } from './guard-node.ts';
import { cgroupSkip, monoMs, waitUntil } from './guard-parts.ts';

const skip = cgroupSkip();
const key = keys.nodeDisarm(node);

async function disarm(parts: GuardNode): Promise<void> {
  const order: DisarmOrder = { mode: 'hold', managerEpoch: 1, askedAtMs: 0 };
  const outcome = await parts.store.commit([{ key, modRevision: 0n }], [{ key, value: JSON.stringify(order) }]);
  assert.equal(outcome.kind, 'committed');
}

async function arm(parts: GuardNode): Promise<void> {
  const entry = await parts.store.read(key);
  const outcome = await parts.store.commit([{ key, modRevision: entry?.modRevision ?? 0n }], [{ key, value: null }]);
  assert.equal(outcome.kind, 'committed');
}

async function untilDisarmed(parts: GuardNode): Promise<void> {
  await waitUntil('disarmed', () => parts.state()?.phase === 'disarmed');
}

/** Longer than any limit of this node: time itself is what is tried. */
const longMs = timing.softMs + timing.watchdogMs + timing.claimMs;

/** The phases of the heartbeats as they come out of the store, on the system's monotonic clock; disposing ends it. */
function followPhases(parts: GuardNode): { told: { phase: Heartbeat['phase']; atMs: number }[] } & AsyncDisposable {
  const stop = new AbortController();
  const told: { phase: Heartbeat['phase']; atMs: number }[] = [];
  const follow = async () => {
    for await (const batch of parts.store.watch(keys.nodeHeartbeat(node), { signal: stop.signal })) {
      const entries = batch.kind === 'snapshot' ? batch.entries : batch.changes.map(({ entry }) => entry);
      for (const entry of entries) {
        if (entry !== null) told.push({ phase: (JSON.parse(entry.value) as Heartbeat).phase, atMs: monoMs() });
      }
    }
  };
  const done = follow();
  return {
    told,
    async [Symbol.asyncDispose]() {
      stop.abort();
      await done;
    },
  };
}

test(
  'disarmed: the watchdog is closed, and guests run on while the store is away for longer than any limit',
  { skip },
  async () => {
    await using parts = await startGuardNode();
    parts.startGuard();
    const epoch = await parts.serving();
    const guest = await parts.startGuest(epoch);
    await disarm(parts);
    await waitUntil('the watchdog is closed', () => parts.standIn.disarms() === 1);
    assert.equal((await parts.heartbeat())?.phase, 'disarmed', 'said before the watchdog was closed');
    await untilDisarmed(parts);
    assert.equal(parts.standIn.seen.at(-1)?.byte, 'V'.charCodeAt(0), 'nothing was written after the magic close');
    const { seq } = (await parts.heartbeat()) ?? { seq: 0 };
    const seen = parts.standIn.seen.length;
    parts.etcd.kill('SIGSTOP');
    await pause(longMs);
    assert.deepEqual([parts.state()?.phase, parts.isFrozen(epoch), guest.isAlive()], ['disarmed', false, true]);
    parts.etcd.kill('SIGCONT');
    const later = await waitUntil('it renews', async () => {
      const heartbeat = await parts.heartbeat();
      return heartbeat !== null && heartbeat.seq > seq ? heartbeat : null;
    });
    assert.deepEqual([later.phase, later.epoch, parts.standIn.seen.length], ['disarmed', epoch, seen]);
  },
);

test(
  'armed again: the watchdog is open before the first heartbeat says serving; epoch and guests are the same',
  { skip },
  async () => {
    await using parts = await startGuardNode();
    parts.startGuard();
    const epoch = await parts.serving();
    const guest = await parts.startGuest(epoch);
    await disarm(parts);
    await untilDisarmed(parts);
    const seen = parts.standIn.seen.length;
    await using phases = followPhases(parts);
    await waitUntil('the watch follows', () => phases.told.length > 1);
    await arm(parts);
    const serving = await waitUntil('serving is said', () => phases.told.find(({ phase }) => phase === 'serving'));
    const opened = parts.standIn.seen.slice(seen).at(0);
    assert.ok(opened !== undefined && opened.atMs < serving.atMs, `opened at ${opened?.atMs}, serving said at ${serving.atMs}`);
    assert.equal(await parts.serving(), epoch);
    assert.ok(guest.isAlive() && !parts.isFrozen(epoch));
    const petted = parts.standIn.pets();
    await waitUntil('it is petted again', () => parts.standIn.pets() > petted + 3);
  },
);

test(
  'a disarmed guard that is stopped leaves guests and permit; the next one of the boot leaves them alone too',
  { skip },
  async () => {
    await using parts = await startGuardNode();
    const first = parts.startGuard();
    const epoch = await parts.serving();
    const guest = await parts.startGuest(epoch);
    await disarm(parts);
    await untilDisarmed(parts);
    first.child.kill('SIGTERM');
    assert.equal(await first.exited, 0);
    const { value: permit } = (await parts.permit()) ?? {};
    assert.deepEqual([permit?.state, permit?.epoch], ['granted', epoch]);
    const seen = parts.standIn.seen.length;
    parts.etcd.kill('SIGSTOP');
    const second = parts.startGuard();
    await waitUntil('the next guard looks for the store', () => second.log.some(({ event }) => event === 'store.call-failed'));
    await pause(longMs);
    assert.deepEqual([parts.state()?.pid, parts.state()?.phase], [second.child.pid, 'disarmed']);
    second.child.kill('SIGKILL');
    await second.exited;
    const { seq } = await startThird(parts);
    await waitUntil('it renews', async () => ((await parts.heartbeat())?.seq ?? 0) > seq + 1);
    assert.equal((await parts.heartbeat())?.phase, 'disarmed');
    assert.deepEqual([guest.isAlive(), parts.isFrozen(epoch), parts.standIn.seen.length], [true, false, seen]);
    await arm(parts);
    assert.equal(await parts.serving(), epoch);
    assert.ok(guest.isAlive());
  },
);

async function startThird(parts: GuardNode): Promise<Heartbeat> {
  parts.etcd.kill('SIGCONT');
  const heartbeat = await parts.heartbeat();
  assert(heartbeat !== null);
  parts.startGuard();
  return heartbeat;
}

test(
  'a boot while disarmed takes its permit, opens no watchdog and no group; armed, it serves under that epoch',
  { skip },
  async () => {
    await using parts = await startGuardNode();
    await disarm(parts);
    parts.startGuard();
    await untilDisarmed(parts);
    const permit = (await parts.permit())?.value;
    assert(permit?.state === 'granted');
    const { epoch } = permit;
    const { seq } = (await parts.heartbeat()) ?? { seq: 0 };
    const later = await waitUntil('it renews', async () => {
      const heartbeat = await parts.heartbeat();
      return heartbeat !== null && heartbeat.seq > seq + 2 ? heartbeat : null;
    });
    assert.deepEqual([later.phase, later.epoch, parts.standIn.seen.length], ['disarmed', epoch, 0]);
    assert.equal(existsSync(parts.groupOf(epoch)), false);
    await arm(parts);
    assert.equal(await parts.serving(), epoch);
  },
);

test('disarmed and revoked: the guests are killed, and a new epoch is taken that guards nothing either', { skip }, async () => {
  await using parts = await startGuardNode();
  parts.startGuard();
  const epoch = await parts.serving();
  const guest = await parts.startGuest(epoch);
  await disarm(parts);
  await untilDisarmed(parts);
  const entry = await parts.permit();
  const revoked: Permit = {
    state: 'revoked',
    epoch: epoch + 1,
    revokedEpoch: epoch,
    proof: { kind: 'power-off', heartbeatSeq: 0, controller: 'bmc', readsApartMs: 500, observer: 'n2' },
    managerEpoch: 1,
    revokedAtMs: 0,
  };
  const compare = { key: keys.nodePermit(node), modRevision: entry?.modRevision ?? 0n };
  await parts.store.commit([compare], [{ key: compare.key, value: JSON.stringify(revoked) }]);
  await waitUntil('the guest is killed', () => !guest.isAlive());
  await waitUntil('a new epoch', async () => (await parts.permit())?.value.epoch === epoch + 2);
  await waitUntil('still disarmed', () => parts.state()?.phase === 'disarmed' && parts.state()?.epoch === epoch + 2);
  assert.equal((await parts.heartbeat())?.phase, 'disarmed');
  assert.equal(parts.standIn.disarms(), 1);
  assert.equal(existsSync(parts.groupOf(epoch)), false);
});
