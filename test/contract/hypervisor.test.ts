import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { chownSync, existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { bootProbeGuest } from '#adapters/qemu/accelerator-probe.ts';
import { readPids } from '#adapters/qemu/guest-group.ts';
import { letGo, spawnGuest } from '#adapters/qemu/guest-spawn.ts';
import { probeGuestImage } from '#adapters/qemu/probe-guest.ts';
import { setGuestTime } from '#adapters/qmp/guest-agent.ts';
import { connectQmp } from '#adapters/qmp/qmp-client.ts';
import { isAppError, formatErrorChain, type ErrorKind } from '#base/error.ts';
import { guestRunPaths } from '#core/guest/guest-paths.ts';
import {
  makeBench,
  makeDisk,
  makeEpoch,
  makeHypervisor,
  makeOrder,
  noNetwork,
  readSerial,
  user,
  waitFor,
  type Bench,
} from './hypervisor-bench.ts';

const run = promisify(execFile);
const starterMark = 'HOLDFAST_TEST_STARTER';

/** Field of /proc/PID/status. */
function readStatus(pid: number, field: string): string {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8');
  return (new RegExp(`^${field}:[ \\t]*(.*)$`, 'm').exec(text)?.[1] ?? '').replaceAll('\t', ' ');
}

function refused(kind: ErrorKind, pattern: RegExp) {
  return (error: unknown) => {
    assert.ok(isAppError(error, kind), `${kind} expected: ${formatErrorChain(error)}`);
    assert.match(formatErrorChain(error), pattern);
    return true;
  };
}

async function assertNothingLeft(bench: Bench, vmid: number): Promise<void> {
  await waitFor('the run folder to go', () => !existsSync(guestRunPaths(bench.runDir, vmid).folder));
  const groups = readdirSync(bench.cgroupDir).filter((name) => existsSync(`${bench.cgroupDir}/${name}/${vmid}`));
  assert.deepEqual(groups, []);
}

if (process.env[starterMark] !== undefined) {
  // This process is the first agent: it starts a guest and is then killed.
  const bench = JSON.parse(process.env[starterMark]) as Bench;
  const guest = await makeHypervisor(bench).start(makeOrder(bench));
  process.stdout.write(`${guest.pid}\n`);
  setInterval(() => {}, 1_000);
} else {
  test('a guest starts stopped, confined and unprivileged; resumed it runs under its generation; killed it leaves nothing', async (t) => {
    const bench = makeBench(t);
    const epochPath = makeEpoch(bench, 1);
    const guest = await makeHypervisor(bench).start(makeOrder(bench));
    assert.deepEqual(readPids(`${epochPath}/100`), [guest.pid]);
    assert.equal(readStatus(guest.pid, 'Uid'), Array(4).fill(user.uid).join(' '));
    assert.equal(readStatus(guest.pid, 'Gid'), Array(4).fill(user.gid).join(' '));
    assert.equal(readStatus(guest.pid, 'Groups').trim(), '');
    assert.equal(readStatus(guest.pid, 'NoNewPrivs'), '1');
    assert.equal(readStatus(guest.pid, 'Seccomp'), '2');
    assert.equal(readStatus(guest.pid, 'CapEff'), '0'.repeat(16));
    assert.deepEqual(await guest.qmp.execute('query-status'), { status: 'prelaunch', singlestep: false, running: false });
    assert.equal(readSerial(bench, 100), '');

    await guest.resume();
    await waitFor('the guest to speak', () => readSerial(bench, 100).includes('\n'));
    assert.match(readSerial(bench, 100), /console=ttyS0 holdfast\.vmid=100 holdfast\.generation=7\n$/);
    const drive = await guest.qmp.execute('qom-get', { path: '/machine/peripheral/disk0', property: 'drive' });
    assert.equal(drive, 'disk0');
    const second = await connectQmp(guestRunPaths(bench.runDir, 100).qmp2, { deadlineMs: 5_000 });
    assert.equal((await second.execute<{ running: boolean }>('query-status')).running, true);
    second.close();

    await guest.kill();
    assert.match((await guest.exited).reason, /killed by SIGKILL/);
    await guest.qmp.closed;
    await assertNothingLeft(bench, 100);
  });

  test('a guest outlives its agent; the next one adopts it, and sees the guard kill it', async (t) => {
    const bench = makeBench(t);
    const epochPath = makeEpoch(bench, 1);
    const env: NodeJS.ProcessEnv = { ...process.env, [starterMark]: JSON.stringify(bench), NODE_TEST_CONTEXT: undefined };
    const agent = spawn(process.execPath, [import.meta.filename], { env, stdio: ['ignore', 'pipe', 'inherit'] });
    t.after(() => agent.kill('SIGKILL'));
    const agentGone = new Promise((resolve) => agent.once('exit', resolve));
    const said = await Promise.race([new Promise((resolve) => agent.stdout.once('data', resolve)), agentGone]);
    const pid = Number(said);
    assert.ok(pid > 1, `the first agent ended: ${String(said)}`);
    agent.kill('SIGKILL');
    await agentGone;

    const hypervisor = makeHypervisor(bench);
    const [guest, ...others] = await hypervisor.adopt();
    assert.ok(guest !== undefined && others.length === 0);
    assert.deepEqual([guest.vmid, guest.generation, guest.nodeEpoch, guest.pid], [100, 7, 1, pid]);
    assert.equal((await hypervisor.adopt())[0], guest);
    await assert.rejects(
      hypervisor.start(makeOrder(bench)),
      refused('conflict', new RegExp(`already runs here, process ${pid}`)),
    );
    await guest.resume();
    await waitFor('the guest to speak', () => readSerial(bench, 100).includes('generation=7'));
    assert.equal(
      (await setGuestTime(guestRunPaths(bench.runDir, 100).guestAgent, Date.now(), { deadlineMs: 200 })).kind,
      'not-set',
    );

    writeFileSync(`${epochPath}/cgroup.kill`, '1');
    assert.match((await guest.exited).reason, new RegExp(`process ${pid} is gone`));
    assert.deepEqual(await hypervisor.adopt(), []);
    await assertNothingLeft(bench, 100);
    rmdirSync(epochPath);
  });

  test('a frozen guest is adopted without waiting; its monitor serves again after the thaw', async (t) => {
    const bench = makeBench(t);
    const epochPath = makeEpoch(bench, 1);
    const first = await makeHypervisor(bench).start(makeOrder(bench));
    first.qmp.close();
    writeFileSync(`${epochPath}/cgroup.freeze`, '1');
    await waitFor('the freeze', () => readFileSync(`${epochPath}/cgroup.events`, 'utf8').includes('frozen 1'));
    const [guest] = await makeHypervisor(bench).adopt();
    assert.ok(guest !== undefined);
    const early = guest.qmp.execute('query-status', undefined, { deadlineMs: 300 });
    await assert.rejects(early, refused('timeout', /query-status: .* frozen/));
    writeFileSync(`${epochPath}/cgroup.freeze`, '0');
    assert.equal((await guest.qmp.execute<{ status: string }>('query-status')).status, 'prelaunch');
    // Killing works on frozen processes too.
    writeFileSync(`${epochPath}/cgroup.freeze`, '1');
    await guest.kill();
    await guest.exited;
  });

  test('a process that took over the number of a dead guest is not adopted', async (t) => {
    const bench = makeBench(t);
    makeEpoch(bench, 1);
    const guest = await makeHypervisor(bench).start(makeOrder(bench));
    const path = guestRunPaths(bench.runDir, 100).meta;
    const meta = JSON.parse(readFileSync(path, 'utf8')) as { startTicks: number };
    for (const change of [{ startTicks: meta.startTicks - 1 }, { pid: process.pid }, { nodeEpoch: 2 }]) {
      writeFileSync(path, JSON.stringify({ ...meta, ...change }));
      assert.deepEqual(await makeHypervisor(bench).adopt(), [], JSON.stringify(change));
    }
    writeFileSync(path, JSON.stringify(meta));
    // A meta.json that QEMU's user could have written says nothing.
    chownSync(path, user.uid, user.gid);
    assert.deepEqual(await makeHypervisor(bench).adopt(), []);
    await guest.kill();
  });

  test('an order whose epoch has no cgroup any more has nowhere to run', async (t) => {
    const bench = makeBench(t);
    makeEpoch(bench, 2);
    await assert.rejects(
      makeHypervisor(bench).start(makeOrder(bench)),
      refused('conflict', /guest 100: .* node epoch 1 is not there/),
    );
    assert.deepEqual(readPids(bench.cgroupDir), []);
    assert.equal(existsSync(guestRunPaths(bench.runDir, 100).folder), false);
    assert.deepEqual(
      readdirSync(bench.cgroupDir).filter((name) => name.startsWith('e')),
      ['e2'],
    );
  });

  test('a start whose epoch is taken away meanwhile is a conflict and leaves nothing', async (t) => {
    const bench = makeBench(t);
    const epochPath = makeEpoch(bench, 1);
    // The guard removes the epoch just when the ports are made: the process that then wants to enter the group cannot.
    const createPorts = () => {
      rmdirSync(`${epochPath}/100`);
      rmdirSync(epochPath);
      return Promise.resolve();
    };
    const hypervisor = makeHypervisor(bench, { network: { ...noNetwork, createPorts } });
    await assert.rejects(hypervisor.start(makeOrder(bench)), refused('conflict', /node epoch 1 was taken away meanwhile/));
    await assertNothingLeft(bench, 100);
    assert.equal(existsSync(epochPath), false);
  });

  test('a process that was not written down never becomes QEMU', async (t) => {
    const bench = makeBench(t);
    const groupPath = `${makeEpoch(bench, 1)}/100`;
    mkdirSync(groupPath);
    const logPath = `${bench.dataDir}/qemu.log`;
    const witness = `${bench.dataDir}/witness`;
    const spawned = await spawnGuest({ vmid: 100, groupPath, command: ['touch', witness], logPath });
    await waitFor('the process to enter its group', () => readPids(groupPath).includes(spawned.identity.pid));
    // What its agent's death does.
    spawned.child.stdin?.destroy();
    assert.equal(await spawned.end, 'exit code 1');
    assert.equal(existsSync(witness), false);
    const another = await spawnGuest({ vmid: 100, groupPath, command: ['touch', witness], logPath });
    letGo(another);
    assert.equal(await another.end, 'exit code 0');
    assert.equal(existsSync(witness), true);
  });

  test('a missing kernel or disk is named before anything is made', async (t) => {
    const bench = makeBench(t);
    makeEpoch(bench, 1);
    const hypervisor = makeHypervisor(bench);
    const order = makeOrder(bench);
    const boot = { kernel: 'vmlinux', initrd: null, append: '' };
    await assert.rejects(
      hypervisor.start({ ...order, config: { ...order.config, boot } }),
      refused('missing', /guest 100: its kernel vmlinux is not on this node: .*assets\/vmlinux/),
    );
    rmSync(`${bench.dataDir}/disk0.raw`);
    await assert.rejects(
      hypervisor.start(order),
      refused('missing', /guest 100: its disk disk0 is not on this node: .*disk0\.raw/),
    );
    await assertNothingLeft(bench, 100);
  });

  test('when QEMU refuses, its own words are in the error and nothing is left', async (t) => {
    const bench = makeBench(t);
    makeEpoch(bench, 1);
    const order = makeOrder(bench);
    chownSync(`${bench.dataDir}/disk0.raw`, 0, 0);
    const hypervisor = makeHypervisor(bench);
    await assert.rejects(
      hypervisor.start(order),
      refused('unavailable', /start guest 100: QEMU says: .*disk0\.raw.*Permission denied/),
    );
    await assertNothingLeft(bench, 100);
    chownSync(`${bench.dataDir}/disk0.raw`, user.uid, user.gid);
    await (await hypervisor.start(order)).kill();
  });

  test('without a kernel the firmware starts the guest from disk0', async (t) => {
    const bench = makeBench(t);
    makeEpoch(bench, 1);
    const order = makeOrder(bench);
    // cli; mov $0x3f8,%dx; mov $'D',%al; out %al,%dx; mov $'\n',%al; out %al,%dx; hlt
    const bootSector = Buffer.concat([
      Buffer.from('fabaf803b044eeb00aeef4', 'hex'),
      Buffer.alloc(499),
      Buffer.from([0x55, 0xaa]),
    ]);
    const disks = [makeDisk(bench, 'disk0', bootSector)];
    const guest = await makeHypervisor(bench).start({ ...order, disks, config: { ...order.config, boot: null } });
    await guest.resume();
    await waitFor('the boot sector to run', () => readSerial(bench, 100) === 'D\n');
    await guest.kill();
  });

  test('shutdown kills a guest that does not hear it, and says how QEMU ended', async (t) => {
    const bench = makeBench(t);
    makeEpoch(bench, 1);
    const guest = await makeHypervisor(bench).start(makeOrder(bench));
    await guest.resume();
    await guest.shutdown({ deadlineMs: 300 });
    assert.match((await guest.exited).reason, /SIGKILL/);
    const again = await makeHypervisor(bench).start(makeOrder(bench, { generation: 8 }));
    await again.qmp.execute('quit');
    assert.match((await again.exited).reason, /host-qmp-quit, exit code 0/);
  });

  test('the accelerator is found by booting a guest, and the answer is kept', async (t) => {
    const bench = makeBench(t);
    const params = { qemu: 'qemu-system-x86_64', runDir: bench.runDir, user, accelerator: 'auto' } as const;
    assert.equal(await bootProbeGuest(params, 'tcg'), null);
    assert.match((await bootProbeGuest({ ...params, qemu: '/bin/true' }, 'tcg')) ?? '', /QEMU ended with 0/);
    const whyNotKvm = await bootProbeGuest(params, 'kvm');
    const facts = await makeHypervisor(bench, { accelerator: 'auto' }).probe();
    assert.equal(facts.accelerator, whyNotKvm === null ? 'kvm' : 'tcg');
    assert.ok(facts.because.includes(whyNotKvm ?? 'booted with KVM'), facts.because);
    assert.match(facts.qemuVersion, /^\d+\.\d+/);
    const kept = JSON.parse(readFileSync(`${bench.runDir}/accelerator.json`, 'utf8')) as { facts: { because: string } };
    kept.facts.because = 'kept';
    writeFileSync(`${bench.runDir}/accelerator.json`, JSON.stringify(kept));
    assert.equal((await makeHypervisor(bench, { accelerator: 'auto' }).probe()).because, 'kept');
    assert.equal((await makeHypervisor(bench).probe()).because, 'node.toml asks for tcg');
    await assert.rejects(makeHypervisor(bench, { qemu: 'no-such-qemu' }).probe(), refused('missing', /no-such-qemu/));
  });

  test('the probe guest’s bytes are those of its source', async (t) => {
    const bench = makeBench(t);
    const source = join(import.meta.dirname, '../../src/adapters/qemu/probe-guest.S');
    const [object, image] = [`${bench.dataDir}/p.o`, `${bench.dataDir}/p.bin`];
    const assembled = await run('as', ['--64', source, '-o', object]).catch(() => null);
    if (assembled === null) return t.skip('no assembler here (binutils)');
    await run('ld', ['-Ttext', '0x100000', '--oformat', 'binary', '-e', 'start', object, '-o', image]);
    assert.deepEqual(readFileSync(image), probeGuestImage);
  });

  test('this QEMU has what replication needs', async (t) => {
    const bench = makeBench(t);
    const features = await makeHypervisor(bench).probeFeatures();
    assert.deepEqual(
      Object.entries(features).filter(([, has]) => !has),
      [],
    );
  });
}
