import { strict as assert } from 'node:assert';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { keys } from '#core/ha/keys.ts';
import { removeReleaseRequest, writeAgentAlive, writeReleaseRequest } from '#programs/local-state.ts';
import { node, startGuardNode, timing, type GuardNode } from './guard-node.ts';
import { cgroupSkip, createFolder, monoMs, waitUntil } from './guard-parts.ts';

const skip = cgroupSkip();

async function revoke(parts: GuardNode): Promise<number> {
  const permit = await parts.permit();
  assert(permit?.value.state === 'granted');
  const { epoch } = permit.value;
  const proof = { kind: 'silence', heartbeatSeq: 0, silentMs: 0, claimMs: timing.claimMs, observer: 'n2' };
  const value = { state: 'revoked', epoch: epoch + 1, revokedEpoch: epoch, proof, managerEpoch: 1, revokedAtMs: 0 };
  const key = keys.nodePermit(node);
  const outcome = await parts.store.commit([{ key, modRevision: permit.modRevision }], [{ key, value: JSON.stringify(value) }]);
  assert.equal(outcome.kind, 'committed');
  return epoch;
}

test('a fresh guard takes epoch 1, renews, pets and publishes what the agent says', { skip }, async () => {
  await using parts = await startGuardNode();
  parts.startGuard();
  assert.equal(await parts.serving(), 1);
  const permit = await parts.permit();
  assert.equal(permit?.value.state, 'granted');
  const first = await parts.heartbeat();
  assert.equal(first?.agentSilentMs, null);
  writeAgentAlive(parts.run, { atBootMs: 1, load: { guestsRunning: 3, memoryUsedMb: 5 } });
  const pets = parts.standIn.pets();
  const later = await waitUntil('the agent is seen', async () => {
    const heartbeat = await parts.heartbeat();
    return heartbeat?.load?.guestsRunning === 3 ? heartbeat : null;
  });
  assert.ok(later.seq > (first?.seq ?? 0) && (later.agentSilentMs ?? 0) > 0 && later.phase === 'serving');
  await waitUntil('pets go on', () => parts.standIn.pets() > pets);
  assert.deepEqual(parts.state()?.problems, []);
});

test('without the store guests freeze at soft and are petted for; the same epoch thaws them', { skip }, async () => {
  await using parts = await startGuardNode();
  const guard = parts.startGuard();
  const epoch = await parts.serving();
  const guest = await parts.startGuest(epoch);
  parts.etcd.kill('SIGSTOP');
  const stoppedMs = monoMs();
  await waitUntil('frozen', () => parts.isFrozen(epoch));
  const tookMs = monoMs() - stoppedMs;
  assert.ok(tookMs < timing.softMs + timing.watchdogMs, `frozen after ${tookMs} ms`);
  const frozenMs = monoMs();
  await waitUntil('pets for longer than the watchdog waits', () => parts.standIn.lastPetMs() > frozenMs + timing.watchdogMs);
  assert.ok(longestGapMs(parts, stoppedMs) < timing.watchdogMs, 'the host would have been reset');
  assert.equal(parts.state()?.phase, 'frozen');
  parts.etcd.kill('SIGCONT');
  await waitUntil('thawed', () => !parts.isFrozen(epoch));
  assert.equal(await parts.serving(), epoch);
  assert.ok(guest.isAlive());
  await waitUntil('the thaw is told to the agent', () => parts.state()?.thawedBootMs ?? null);
  const freezing = guard.log.find(({ event }) => event === 'guard.freezing');
  const silentMs = Number(/in the last (\d+) ms/.exec(String(freezing?.['msg']))?.[1]);
  assert.ok(silentMs >= timing.softMs - 10 && silentMs < timing.softMs + 500, `frozen ${silentMs} ms after the last renewal`);
});

test('a revoked permit: guests killed, the group removed, then a new epoch', { skip }, async () => {
  await using parts = await startGuardNode();
  parts.startGuard();
  const epoch = await parts.serving();
  const guest = await parts.startGuest(epoch);
  await revoke(parts);
  await waitUntil('the guest is killed', () => !guest.isAlive());
  assert.equal(await parts.serving(epoch), epoch + 2);
  assert.equal(existsSync(parts.groupOf(epoch)), false);
  const permit = await parts.permit();
  assert.deepEqual([permit?.value.state, permit?.value.epoch], ['granted', epoch + 2]);
});

test('revoked while the guard was paused: the guests are killed and never thawed', { skip }, async () => {
  await using parts = await startGuardNode();
  const guard = parts.startGuard();
  const epoch = await parts.serving();
  const guest = await parts.startGuest(epoch);
  guard.child.kill('SIGSTOP');
  await pause(timing.softMs + 100); // time itself is what is tried here
  await revoke(parts);
  guard.child.kill('SIGCONT');
  await parts.serving(epoch);
  assert.equal(guest.isAlive(), false);
  const moves = guard.log.filter(({ event }) => event.startsWith('guard.')).map(({ event, epoch: under }) => [event, under]);
  const paused = moves.findIndex(([event]) => event === 'guard.freezing');
  assert.ok(paused > 0, 'it froze first');
  assert.ok(
    !moves.slice(paused).some(([event, under]) => event === 'guard.serving' && under === epoch),
    'served again under a lost epoch',
  );
});

test('a guard that was stopped past soft freezes before it pets', { skip }, async () => {
  await using parts = await startGuardNode();
  const guard = parts.startGuard();
  const epoch = await parts.serving();
  await parts.startGuest(epoch);
  const pets = parts.standIn.pets();
  await waitUntil('a pet', () => parts.standIn.pets() > pets);
  guard.child.kill('SIGSTOP');
  await pause(timing.softMs + 200); // time itself is what is tried here
  parts.etcd.kill('SIGSTOP');
  assert.equal(parts.isFrozen(epoch), false);
  const continuedMs = monoMs();
  const silent = parts.standIn.pets();
  guard.child.kill('SIGCONT');
  let runningMs = continuedMs;
  for (let lookMs = monoMs(); !parts.isFrozen(epoch); lookMs = monoMs()) {
    runningMs = lookMs;
    assert.ok(lookMs < continuedMs + 2_000, 'never frozen');
  }
  await waitUntil('a pet after the pause', () => parts.standIn.pets() > silent);
  const firstMs = parts.standIn.seen[silent]?.atMs ?? 0;
  assert.ok(firstMs >= runningMs, `petted ${runningMs - firstMs} ms before the guests were last seen to run`);
  parts.etcd.kill('SIGCONT');
  await waitUntil('thawed', () => !parts.isFrozen(epoch));
});

test('a killed guard pets no more; its successor renews under the same epoch before it pets', { skip }, async () => {
  await using parts = await startGuardNode();
  const first = parts.startGuard();
  const epoch = await parts.serving();
  const guest = await parts.startGuest(epoch);
  first.child.kill('SIGKILL');
  await first.exited;
  const before = await parts.heartbeat();
  const last = parts.standIn.lastPetMs();
  await pause(timing.watchdogMs); // nobody may pet for as long as the hardware waits
  assert.equal(parts.standIn.lastPetMs(), last);
  const pets = parts.standIn.pets();
  parts.etcd.kill('SIGSTOP');
  const second = parts.startGuard();
  await waitUntil('it looked for the store and froze the guests', () => parts.isFrozen(epoch));
  await waitUntil('frozen guests are petted for', () => parts.standIn.pets() > pets);
  parts.etcd.kill('SIGCONT');
  assert.equal(await parts.serving(), epoch);
  await waitUntil('thawed', () => !parts.isFrozen(epoch));
  assert.ok(((await parts.heartbeat())?.seq ?? 0) > (before?.seq ?? 0));
  assert.ok(guest.isAlive() && second.child.exitCode === null);
});

/** In the place of systemd: notes what it is told and holds the answer back for as long as `hold` is there. */
function writeNotify(folder: string): { env: NodeJS.ProcessEnv; said(): string; hold: string } {
  const [said, hold] = [join(folder, 'said'), join(folder, 'hold')];
  const script = `#!/bin/sh\nwhile [ -e '${hold}' ]; do sleep 0.05; done\necho "$*" >>'${said}'\n`;
  writeFileSync(join(folder, 'systemd-notify'), script, { mode: 0o755 });
  return {
    env: { PATH: `${folder}:${process.env['PATH']}`, NOTIFY_SOCKET: '/run/systemd/notify' },
    said: () => (existsSync(said) ? readFileSync(said, 'utf8').trim() : ''),
    hold,
  };
}

test('a hand-over leaves guests and watchdog to a successor that is ready, of the same epoch', { skip }, async () => {
  await using parts = await startGuardNode();
  using folder = createFolder();
  const notify = writeNotify(folder.path);
  const first = parts.startGuard(undefined, notify.env);
  const epoch = await parts.serving();
  const guest = await parts.startGuest(epoch);
  writeFileSync(notify.hold, '');
  const fromMs = monoMs();
  first.child.kill('SIGUSR2');
  const pid = await waitUntil('the successor serves', () => {
    const state = parts.state();
    return state?.phase === 'serving' && state.pid !== first.child.pid ? state.pid : null;
  });
  const pets = parts.standIn.pets();
  await waitUntil('the successor pets', () => parts.standIn.pets() > pets + 3);
  assert.equal(first.child.exitCode, null, 'the former is there until systemd knows of the successor');
  rmSync(notify.hold);
  assert.equal(await first.exited, 0);
  assert.equal(notify.said(), `MAINPID=${pid}`);
  assert.equal(await parts.serving(), epoch);
  assert.ok(guest.isAlive() && !parts.isFrozen(epoch));
  assert.equal(parts.standIn.disarms(), 0);
  // Loading alone takes longer than this watchdog waits: it went on beside the former.
  assert.ok(longestGapMs(parts, fromMs) < timing.watchdogMs, 'the host would have been reset');
});

test('without systemd the former stays for its supervisor and passes the stop on', { skip }, async () => {
  await using parts = await startGuardNode();
  const first = parts.startGuard();
  await parts.serving();
  first.child.kill('SIGUSR2');
  await waitUntil('the successor serves', () => parts.state()?.phase === 'serving' && parts.state()?.pid !== first.child.pid);
  first.child.kill('SIGTERM');
  assert.equal(await first.exited, 0);
  assert.equal(parts.standIn.disarms(), 1);
});

test('a successor that cannot get ready, or is not wanted any more, is given up; the former goes on', { skip }, async () => {
  await using parts = await startGuardNode();
  const first = parts.startGuard();
  const epoch = await parts.serving();
  const settings = readFileSync(parts.configFile, 'utf8');
  writeFileSync(parts.configFile, 'spoiled');
  first.child.kill('SIGUSR2');
  await waitUntil('it is told', () => first.log.some(({ event }) => event === 'guard.hand-over-failed'));
  writeFileSync(parts.configFile, settings);
  const pets = parts.standIn.pets();
  await waitUntil('pets go on', () => parts.standIn.pets() > pets + 3);
  assert.deepEqual([parts.state()?.pid, parts.state()?.epoch], [first.child.pid, epoch]);
  first.child.kill('SIGUSR2');
  first.child.kill('SIGTERM');
  assert.equal(await first.exited, 0);
  assert.equal(parts.standIn.disarms(), 1);
});

test('a successor does not outlive a former that was killed before it let go', { skip }, async () => {
  await using parts = await startGuardNode();
  const first = parts.startGuard();
  const epoch = await parts.serving();
  parts.etcd.kill('SIGSTOP'); // so that no successor gets ready
  await waitUntil('frozen', () => parts.isFrozen(epoch));
  first.child.kill('SIGUSR2');
  const successor = await waitUntil('a successor', () => findSuccessor(parts.configFile));
  first.child.kill('SIGKILL');
  await first.exited;
  const last = parts.standIn.lastPetMs();
  parts.etcd.kill('SIGCONT');
  await waitUntil('the successor ends', () => !existsSync(`/proc/${successor}`));
  assert.equal(parts.standIn.lastPetMs(), last, 'nobody pets after a crash');
});

/** The guard that another one has started; it is nobody's child here. */
function findSuccessor(configFile: string): number | null {
  const isOne = (pid: string): boolean => {
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      return words[0] === process.execPath && words.includes(configFile) && words.includes('--successor');
    } catch {
      return false;
    }
  };
  const found = readdirSync('/proc').find((name) => /^\d+$/.test(name) && isOne(name));
  return found === undefined ? null : Number(found);
}

test('SIGTERM: with guests the guard goes on; without, it gives the permit back, disarms and ends', { skip }, async () => {
  await using parts = await startGuardNode();
  const guard = parts.startGuard();
  const epoch = await parts.serving();
  const guest = await parts.startGuest(epoch);
  guard.child.kill('SIGTERM');
  const seq = (await parts.heartbeat())?.seq ?? 0;
  await waitUntil('it still renews', async () => ((await parts.heartbeat())?.seq ?? 0) > seq + 2);
  assert.ok(guest.isAlive() && guard.child.exitCode === null);
  process.kill(guest.pid, 'SIGKILL');
  assert.equal(await guard.exited, 0);
  const permit = await parts.permit();
  assert(permit?.value.state === 'revoked' && permit.value.proof.kind === 'released' && permit.value.revokedEpoch === epoch);
  assert.equal(existsSync(parts.groupOf(epoch)), false);
  await waitUntil('disarmed', () => parts.standIn.disarms() === 1);
});

test(
  'a release request: guests killed, permit given back with its reason, disarmed; serves again afterwards',
  { skip },
  async () => {
    await using parts = await startGuardNode();
    parts.startGuard();
    const epoch = await parts.serving();
    const guest = await parts.startGuest(epoch);
    writeReleaseRequest(parts.run, { reason: 'node shuts down', askedBootMs: 0 });
    await waitUntil('disarmed', () => parts.standIn.disarms() === 1);
    assert.equal(guest.isAlive(), false);
    const permit = await parts.permit();
    assert(permit?.value.state === 'revoked');
    assert.deepEqual(permit.value.proof, { kind: 'released', reason: 'node shuts down' });
    assert.equal(parts.state()?.phase, 'released');
    removeReleaseRequest(parts.run);
    assert.equal(await parts.serving(epoch), epoch + 2);
  },
);

test('a release ordered through the store is carried out and waits for the agent', { skip }, async () => {
  await using parts = await startGuardNode();
  parts.startGuard();
  const epoch = await parts.serving();
  const guest = await parts.startGuest(epoch);
  const key = keys.nodeRelease(node);
  const order = { reason: 'agent silent', managerEpoch: 1, askedAtMs: 0 };
  await parts.store.commit([{ key, modRevision: 0n }], [{ key, value: JSON.stringify(order) }]);
  await waitUntil('released', () => parts.state()?.phase === 'released');
  const permit = await parts.permit();
  assert(permit?.value.state === 'revoked');
  assert.deepEqual(permit.value.proof, { kind: 'released', reason: 'agent silent' });
  assert.equal(await parts.store.read(key), null);
  await waitUntil('the guest is gone', () => !guest.isAlive());
  writeAgentAlive(parts.run, { atBootMs: Number.MAX_SAFE_INTEGER, load: { guestsRunning: 0, memoryUsedMb: 0 } });
  await parts.serving(epoch);
});

test('a watchdog that is slower than the profile: no permit, a problem in words, disarmed', { skip }, async () => {
  await using parts = await startGuardNode({ watchdogMinSeconds: 10 });
  parts.startGuard();
  const state = await waitUntil('the problem is told', () => {
    const now = parts.state();
    return now?.phase === 'released' ? now : null;
  });
  assert.match(state.problems.join(), /after 10000 ms, later than the 1000 ms of timing profile custom/);
  await waitUntil('disarmed', () => parts.standIn.disarms() === 1);
  assert.equal(await parts.permit(), null);
});

test('a store of another cluster: nothing is written to it', { skip }, async () => {
  await using parts = await startGuardNode({ storeCluster: 'c2' });
  parts.startGuard();
  const state = await waitUntil('the problem is told', () => {
    const now = parts.state();
    return now !== null && now.problems.length > 0 ? now : null;
  });
  assert.match(state.problems.join(), /cluster c1, but its store belongs to cluster c2/);
  assert.equal(await parts.permit(), null);
});

test('a machine whose name another one has taken takes no permit', { skip }, async () => {
  await using parts = await startGuardNode();
  const key = keys.nodeMachine(node);
  await parts.store.commit([], [{ key, value: JSON.stringify({ id: 'another', atMs: 0 }) }]);
  parts.startGuard();
  const state = await waitUntil('the problem is told', () => {
    const now = parts.state();
    return now !== null && now.problems.length > 0 ? now : null;
  });
  assert.match(state.problems.join(), /another machine has taken the name n1/);
  assert.equal(await parts.permit(), null);
});

test('a second guard on one node ends at once and touches nothing', { skip }, async () => {
  await using parts = await startGuardNode();
  parts.startGuard();
  const epoch = await parts.serving();
  const second = parts.startGuard();
  assert.equal(await second.exited, 4);
  assert.match(JSON.stringify(second.log), /another guard runs on this node/);
  assert.equal(parts.state()?.epoch, epoch);
});

function longestGapMs(parts: GuardNode, sinceMs: number): number {
  const times = parts.standIn.seen.map(({ atMs }) => atMs).filter((atMs) => atMs >= sinceMs);
  return Math.max(...times.map((atMs, index) => (index === 0 ? 0 : atMs - (times[index - 1] ?? atMs))));
}
