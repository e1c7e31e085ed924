import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { buildRig, checkReplica, createProbeDisks, endProcess, runProbeOn, type Rig } from './checker/node-rig.ts';
import { until } from './checker/until.ts';

/**
 * Whatever is killed and whenever, the copy that lies on the target is exactly the sequence up to its counter. The receiving half is a process
 * of its own here; the copy is looked at while that process is dead, as it would be after a crash of the node. HOLDFAST_CHAOS_SECONDS
 * makes it run longer; HOLDFAST_CHAOS_SEED repeats the order of kills.
 */
const vmid = 100;
const seconds = Number(process.env['HOLDFAST_CHAOS_SECONDS'] ?? 60);
const seed = Number(process.env['HOLDFAST_CHAOS_SEED'] ?? Date.now() % 100_000);
const keep = { recent: 2, minutes: 1, hours: 0 }; // so few that merges go on all the time

test(`after random kills for ${seconds} s every committed point is whole (seed ${seed})`, async () => {
  await using rig = await buildRig(['n1', 'n2'], { intervalMs: 1_000 });
  const [n1, n2] = [rig.node('n1'), rig.node('n2')];
  await n2.stopServing();
  writeFileSync(join(rig.path, 'home.json'), JSON.stringify({ node: 'n1', generation: 1 }));
  await createProbeDisks(rig, 'n1', vmid);
  let guest = await runProbeOn(rig, 'n1', { vmid, generation: 1, intervalMs: 10 });
  let receiver = await startReceiver(rig);
  const random = createRandom(seed);
  let [rounds, points, counter, checks] = [0, 0, 0, 0];
  try {
    const endMs = performance.now() + seconds * 1000;
    while (performance.now() < endMs) {
      rounds += 1;
      const killAtMs = performance.now() + random() * 2_500;
      await until('the time of the kill', 5_000, () => performance.now() > killAtMs);
      const victim = ['relay n1', 'relay n2', 'storage daemon', 'QEMU', 'receiver'][Math.floor(random() * 5)];
      if (victim === 'relay n1') await n1.startRelay();
      if (victim === 'relay n2') await n2.startRelay();
      if (victim === 'storage daemon') killDaemon(n2.run);
      if (victim === 'QEMU') {
        await guest[Symbol.asyncDispose]();
        await n1.replication.stopGuest(vmid);
        guest = await runProbeOn(rig, 'n1', { vmid, generation: 1, intervalMs: 10 });
      }
      const lookAtMs = performance.now() + random() * 2_000;
      await until('the time to look', 5_000, () => performance.now() > lookAtMs);
      await endProcess(receiver);
      if (existsSync(join(n2.directory, 'dir/100/manifest.json'))) {
        const verdict = await checkReplica(rig, 'n2', vmid);
        checks += 1;
        assert.ok(verdict.consistent, `after killing ${victim} in round ${rounds}: ${verdict.detail}`);
        assert.ok(verdict.counter >= counter, 'a copy never goes back');
        if (verdict.counter > counter) points += 1;
        counter = verdict.counter;
      }
      receiver = await startReceiver(rig);
    }
    assert.equal(guest.report()?.ioErrors ?? 0, 0);
    await until('replication works after it all', 60_000, () => n1.replication.syncNow(vmid, 'n2').catch(() => null));
    await endProcess(receiver);
    assert.ok((await checkReplica(rig, 'n2', vmid)).counter > counter);
    assert.ok(checks >= 3 && points >= 2, `only ${checks} looks saw ${points} new points in ${rounds} rounds`);
    console.log(`${rounds} rounds, ${checks} looks, ${points} of them at a newer point, last counter ${counter}`);
  } finally {
    await endProcess(receiver);
    await guest[Symbol.asyncDispose]();
  }
});

async function startReceiver(rig: Rig): Promise<ChildProcess> {
  const { directory, run } = rig.node('n2');
  rmSync(join(run, 'replica.sock'), { force: true });
  const output = openSync(join(run, 'receiver.log'), 'a');
  const program = new URL('checker/receiver-process.ts', import.meta.url).pathname;
  const child = spawn(process.execPath, [program, directory, JSON.stringify(keep)], { stdio: ['ignore', output, output] });
  await until('the receiver serves', 15_000, () => {
    if (child.exitCode !== null)
      throw new Error(`the receiver ended: ${readFileSync(join(run, 'receiver.log'), 'utf8').slice(-500)}`);
    return existsSync(join(run, 'replica.sock'));
  });
  return child;
}

function killDaemon(run: string): void {
  const file = join(run, 'replica/100/daemon.pid');
  const pid = existsSync(file) ? Number(readFileSync(file, 'utf8').split(' ')[0]) : 0;
  if (pid > 0 && existsSync(`/proc/${pid}`)) process.kill(pid, 'SIGKILL');
}

/** Mulberry32: small, good enough, repeatable. */
function createRandom(start: number): () => number {
  let state = start >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let value = Math.imul(state ^ (state >>> 15), state | 1);
    value ^= value + Math.imul(value ^ (value >>> 7), value | 61);
    return ((value ^ (value >>> 14)) >>> 0) / 2 ** 32;
  };
}
