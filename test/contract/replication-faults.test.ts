import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { formatErrorChain } from '#base/error.ts';
import { readBitmaps } from '#programs/replication/fleece.ts';
import { buildRig, checkReplica, createProbeDisks, endProcess, runProbeOn, type Rig } from './checker/node-rig.ts';
import { watchLag } from './checker/lag.ts';
import type { ProbeGuest } from './checker/probe-guest.ts';
import { until } from './checker/until.ts';

/**
 * Trouble on the way of a point. In every case the guest must see no error and no stall of 2 s, the copy must keep its last whole point,
 * and the first cycle after the trouble must succeed.
 */
const vmid = 100;
const worstStallMs = 2_000;
/** So slow that a cycle lasts seconds: the trouble always comes in the middle of one. */
const slowRate = 1 << 20;
let rig: Rig;
let guest: ProbeGuest;

before(async () => {
  rig = await buildRig(['n1', 'n2']);
  await createProbeDisks(rig, 'n1', vmid);
  guest = await runProbeOn(rig, 'n1', { vmid, generation: 1, intervalMs: 20 });
  await guest.reach(20);
  await rig.node('n1').replication.syncNow(vmid);
});

after(async () => {
  await guest[Symbol.asyncDispose]();
  await rig[Symbol.asyncDispose]();
});

function readDaemonPid(): number {
  return Number(readFileSync(join(rig.node('n2').run, 'replica/100/daemon.pid'), 'utf8').split(' ')[0]);
}

/** Makes enough changes for a slow cycle, starts one, and returns when bytes are on their way. */
async function startCycle(): Promise<{ outcome: Promise<string> }> {
  await guest.reach((guest.report()?.counter ?? 0) + 80);
  const outcome = rig
    .node('n1')
    .replication.syncNow(vmid, 'n2')
    .then(
      ([line]) => `done: ${line}`,
      (error: unknown) => `failed: ${formatErrorChain(error)}`,
    );
  await until('the push is under way', 15_000, async () => (await readBitmaps(guest.qmp)).has('tgt-disk0'));
  return { outcome };
}

/** Runs `trouble` in the middle of a cycle and looks at the guest, the copy and the next cycle. */
async function endure(trouble: () => Promise<void>, heal: () => Promise<void>, expected: RegExp): Promise<void> {
  const point = (await checkReplica(rig, 'n2', vmid)).counter;
  rig.job.rateBytesPerSecond = slowRate;
  const { outcome } = await startCycle();
  const lag = watchLag();
  guest.takeLongestStall();
  try {
    await trouble();
    const told = await outcome;
    rig.job.rateBytesPerSecond = null; // the tries that follow by themselves need not be slow
    assert.match(told, expected);
    await guest.reach((guest.report()?.counter ?? 0) + 10);
  } finally {
    await heal();
  }
  const to = guest.report();
  const worstLagMs = lag.stop();
  assert.equal(to?.ioErrors, 0);
  const stallMs = guest.takeLongestStall();
  console.log(`longest stall ${stallMs} ms; this machine's own ${Math.round(worstLagMs)} ms; ${await outcome}`);
  const allowedMs = worstStallMs + worstLagMs; // what this machine itself stood still in the same time is not our stall
  assert.ok(stallMs < allowedMs, `no progress for ${stallMs} ms, allowed are ${allowedMs}`);
  const verdict = await checkReplica(rig, 'n2', vmid);
  assert.ok(verdict.consistent && verdict.counter >= point, verdict.detail);

  await until('the next cycle succeeds', 60_000, () =>
    rig
      .node('n1')
      .replication.syncNow(vmid, 'n2')
      .catch(() => null),
  );
  const healed = await checkReplica(rig, 'n2', vmid);
  assert.ok(healed.consistent && healed.counter > verdict.counter, healed.detail);
  const nodes = [...(await readBitmaps(guest.qmp)).keys()].filter((name) => /^(cbw|acc|scr|tgt)-/.test(name));
  assert.deepEqual(nodes, [], 'nothing of a cycle stays in QEMU');
}

const nothing = async (): Promise<void> => {};

test('the target’s storage daemon is killed', async () => {
  await endure(async () => void process.kill(readDaemonPid(), 'SIGKILL'), nothing, /^failed/);
});

test('the target’s storage daemon hangs: the cycle is given up', async () => {
  let pid = 0;
  await endure(
    async () => {
      pid = readDaemonPid();
      process.kill(pid, 'SIGSTOP');
    },
    async () => void (pid > 0 && isAlive(pid) && process.kill(pid, 'SIGCONT')),
    /^failed/,
  );
});

test('the target’s relay hangs: the link is cut', async () => {
  const relay = rig.node('n2').relay;
  await endure(
    async () => void relay.kill('SIGSTOP'),
    async () => void relay.kill('SIGCONT'),
    /^failed/,
  );
});

test('our own relay is killed', async () => {
  const n1 = rig.node('n1');
  await endure(
    () => endProcess(n1.relay),
    () => n1.startRelay(),
    /^failed/,
  );
});

test('our own relay hangs: it is killed, the guest goes on', async () => {
  const n1 = rig.node('n1');
  await endure(
    async () => void n1.relay.kill('SIGSTOP'),
    () => n1.startRelay(),
    /^failed/,
  );
});

test('the replica’s disk is full', async () => {
  const folder = join(rig.node('n2').directory, 'dir/100');
  const keep = join(rig.path, 'keep');
  mkdirSync(keep);
  // A file system of its own, filled up but for a little, holds the copy.
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=160m,mode=0711', 'tmpfs', keep]);
  let filled = true;
  try {
    execFileSync('cp', ['-a', '--sparse=always', `${folder}/.`, keep]);
    execFileSync('mount', ['--bind', keep, folder]);
    await endure(
      async () => {
        execFileSync('sh', ['-c', `head -c 200m /dev/zero > ${keep}/filler 2>/dev/null || true`]);
      },
      async () => {
        execFileSync('rm', ['-f', join(keep, 'filler')]);
        filled = false;
      },
      /^failed/,
    );
    assert.equal(filled, false);
  } finally {
    execFileSync('sh', ['-c', `umount ${folder} 2>/dev/null; true`]);
    execFileSync('umount', [keep]);
  }
  // The folder under the mount still holds the copy of before: one that went back in time is compared, never taken for what it was.
  const [line] = await rig.node('n1').replication.syncNow(vmid, 'n2');
  assert.match(line ?? '', /compare .*but the bitmap counts from/);
  assert.ok((await checkReplica(rig, 'n2', vmid)).consistent);
});

test('the scratch outgrows its limit: the cycle is given up, the guest goes on', async () => {
  const scratch = join(rig.node('n1').directory, 'scratch/100/disk0.scratch');
  await endure(async () => void execFileSync('fallocate', ['-l', '1200m', scratch]), nothing, /^failed: .*overwrote/);
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

test('the scratch’s disk is full: the point is given up and that is told, the guest goes on', async () => {
  const folder = join(rig.node('n1').directory, 'scratch');
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=8m,mode=0711', 'tmpfs', folder]);
  const fill = async (): Promise<void> => {
    execFileSync('sh', ['-c', `head -c 16m /dev/zero > ${folder}/filler 2>/dev/null || true`]);
  };
  const heal = async (): Promise<void> => {
    execFileSync('rm', ['-f', join(folder, 'filler')]);
    execFileSync('umount', ['--lazy', folder]);
  };
  await endure(fill, heal, /^failed: .*the point is gone/);
});
