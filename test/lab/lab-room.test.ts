import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { isAppError } from '#base/error.ts';
import { isPopulated, listGroupTree } from '#lab/control-group.ts';
import {
  labContext,
  labDown,
  labStatus,
  link,
  listServicePids,
  plug,
  runInClient,
  runInNode,
  signalService,
  startService,
  stopService,
  switchPower,
} from '#lab/lab.ts';
import { readLabEvents } from '#lab/lab-event.ts';
import { labPaths, nodePaths } from '#lab/lab-paths.ts';
import { requireLabSpec } from '#lab/lab-spec.ts';
import { eventually, stubService, type TestLab, withLab } from './lab-fixture.ts';

const nodeBootId = '/proc/sys/kernel/random/boot_id';

const readInNode = async (lab: TestLab, node: string, ...argv: string[]) => {
  const run = await runInNode(lab.name, node, argv);
  assert.equal(run.code, 0, run.stderr);
  return run.stdout.trim();
};

/** One packet, half a second. */
const pings = async (lab: TestLab, address: string) =>
  (await runInClient(lab.name, ['ping', '-n', '-c', '1', '-W', '0.5', address])).code === 0;

async function pingFromNode(lab: TestLab, node: string, address: string): Promise<boolean> {
  return (await runInNode(lab.name, node, ['ping', '-n', '-c', '1', '-W', '0.5', address])).code === 0;
}

test(
  'a pulled plug ends everything in the node within 100 ms; power back is a new boot with the same disks',
  { timeout: 60_000 },
  (t) =>
    withLab(t, { nodes: 2, bmc: false, services: [stubService('agent', leaveOrphans)] }, async (lab) => {
      const group = join(requireLabSpec(lab.name).cgroup, 'n1');
      const firstBoot = await readInNode(lab, 'n1', 'cat', nodeBootId);
      await readInNode(lab, 'n1', 'sh', '-c', 'echo kept >/var/lib/holdfast/disk; echo lost >/run/holdfast/memory; hostname');
      await eventually('orphans', 5_000, () => listGroupTree(group).length >= 7);
      const pids = listGroupTree(group);

      const cut = await plug(lab.name, 'n1', 'off');
      assert.ok(cut !== null && cut.emptyAfterMs < 100, JSON.stringify(cut));
      assert.ok(!isPopulated(group));
      // Empty means that nothing executes; the kernel may still be taking the last ones apart.
      await eventually('processes gone', 1_000, () => !pids.some(isAlive));
      assert.equal(await plug(lab.name, 'n1', 'off'), null, 'no power to take');
      t.diagnostic(
        `${pids.length} processes: kill took ${cut.killTookMs.toFixed(1)} ms, empty after ${cut.emptyAfterMs.toFixed(1)} ms`,
      );

      await plug(lab.name, 'n1', 'on');
      await lab.waitForEvent('boot', (event) => event.event === 'system-up' && event.node === 'n1', { sinceMs: cut.atMs + 1 });
      assert.notEqual(await readInNode(lab, 'n1', 'cat', nodeBootId), firstBoot);
      assert.equal(await readInNode(lab, 'n1', 'cat', '/var/lib/holdfast/disk'), 'kept');
      assert.equal(await readInNode(lab, 'n1', 'ls', '/run/holdfast'), '');
      assert.equal(await readInNode(lab, 'n1', 'hostname'), 'n1');
      assert.ok(await pings(lab, '10.77.0.1'));
    }),
);

/** Daemons that leave their session and their parent, and children that end unwaited-for. */
const leaveOrphans =
  'for i in 1 2 3 4; do (setsid sh -c "sleep 1000 & exit 0" &); done; for i in 1 2 3; do (sleep 0.1 &); done; exec sleep 1000';

/** A process that was killed may wait for its parent to take note; it executes nothing any more. */
function isAlive(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return !'ZX'.includes(stat.slice(stat.lastIndexOf(')') + 2)[0] ?? '');
  } catch {
    return false;
  }
}

test('orphans of a node are reaped by its first process', { timeout: 60_000 }, (t) =>
  withLab(t, { nodes: 1, bmc: false, services: [stubService('agent', leaveOrphans)] }, async (lab) => {
    const states = 'for stat in /proc/[0-9]*/stat; do sed "s/.*) //" $stat; done 2>/dev/null';
    await readInNode(lab, 'n1', 'sh', '-c', 'for i in 1 2 3 4 5 6 7 8; do (setsid sh -c "true & true & exit 0" &); done');
    await eventually('no zombie', 5_000, async () => {
      const list = await readInNode(lab, 'n1', 'sh', '-c', states);
      assert.ok(list.includes('S '), 'the list shows processes');
      return !list.split('\n').some((line) => line.startsWith('Z'));
    });
  }),
);

const echoServer = "require('node:net').createServer((socket) => socket.pipe(socket)).listen(7000)";

test('a dead peer is silent: its kernel says no goodbye on open connections', { timeout: 60_000 }, (t) =>
  withLab(
    t,
    { nodes: 1, bmc: false, services: [{ ...stubService('server'), argv: [process.execPath, '-e', echoServer] }] },
    async (lab) => {
      const script =
        'exec 3<>/dev/tcp/10.77.0.1/7000; echo hello >&3; read -r -t 5 line <&3; echo "got $line"; read -r -t 3 line <&3; echo "end $?"';
      await eventually(
        'server',
        5_000,
        async () => (await runInClient(lab.name, ['bash', '-c', ': </dev/tcp/10.77.0.1/7000'])).code === 0,
      );
      const lines: string[] = [];
      const client = runInClient(lab.name, ['bash', '-c', script], { onLine: (line) => lines.push(line) });
      await eventually('echo', 5_000, () => lines.includes('got hello'));
      await plug(lab.name, 'n1', 'off');
      const { stdout } = await client;
      const code = Number(/^end (\d+)$/m.exec(stdout)?.[1]);
      assert.ok(code > 128, `bash's read must have timed out (over 128), not seen an end of file: ${stdout}`);
    },
  ),
);

/** Asks for a timeout of 2 s, pets until the file `quiet` appears, then leaves it alone or disarms. */
const petUntilQuiet = (end: string) => `
  echo 2 >/dev/watchdog0.d/settimeout
  exec 3>/dev/watchdog0
  while [ ! -e /run/holdfast/quiet ]; do printf . >&3; sleep 0.1; done
  ${end}
  exec sleep 1000`;

test('a watchdog not petted for its timeout takes the power, and the node boots again', { timeout: 60_000 }, (t) =>
  withLab(t, { nodes: 1, bmc: false, bootDelayMs: 1_000, services: [stubService('guard', petUntilQuiet(''))] }, async (lab) => {
    const armed = await lab.waitForEvent('armed', (event) => event.event === 'watchdog-armed');
    assert.equal(armed.event === 'watchdog-armed' && armed.timeoutMs, 2_000);
    assert.equal(readFileSync(`${nodePaths(lab.name, 'n1').watchdog}.d/timeout`, 'utf8').trim(), '2');
    await eventually('pets outlive the timeout', 10_000, () => Date.now() - armed.atMs > 3_000);
    assert.equal(
      readLabEvents(lab.name).some((event) => event.event === 'power-off'),
      false,
    );

    const quietAtMs = Date.now();
    await readInNode(lab, 'n1', 'touch', '/run/holdfast/quiet');
    const fired = await lab.waitForEvent('fired', (event) => event.event === 'watchdog-fired', { sinceMs: quietAtMs });
    assert.ok(fired.event === 'watchdog-fired');
    const sincePetMs = fired.atMs - fired.lastPetAtMs;
    assert.ok(sincePetMs >= 1_999 && sincePetMs < 2_200, `fired ${sincePetMs} ms after the last pet`);
    const loss = await lab.waitForEvent('loss', (event) => event.event === 'power-off', { sinceMs: quietAtMs });
    assert.ok(loss.event === 'power-off' && loss.by === 'watchdog' && loss.emptyAfterMs !== null && loss.emptyAfterMs < 100);
    const boot = await lab.waitForEvent('boot', (event) => event.event === 'power-on', { sinceMs: fired.atMs });
    assert.ok(boot.atMs - fired.atMs >= 1_000, 'not before the boot delay');
    t.diagnostic(
      `last pet to kill ${sincePetMs} ms, own lateness ${fired.lateMs.toFixed(1)} ms, kill took ${fired.killTookMs.toFixed(1)} ms, empty ${loss.emptyAfterMs} ms after`,
    );
  }),
);

test("a 'V' as the last byte disarms the watchdog; without it closing the device does not", { timeout: 60_000 }, (t) =>
  withLab(
    t,
    { nodes: 2, bmc: false, services: [stubService('guard', petUntilQuiet('[ $(hostname) = n1 ] && printf V >&3; exec 3>&-'))] },
    async (lab) => {
      for (const node of ['n1', 'n2']) {
        await lab.waitForEvent(`${node} armed`, (event) => event.event === 'watchdog-armed' && event.node === node);
        await readInNode(lab, node, 'touch', '/run/holdfast/quiet');
      }
      await lab.waitForEvent('disarmed', (event) => event.event === 'watchdog-disarmed' && event.node === 'n1');
      await lab.waitForEvent('fired', (event) => event.event === 'watchdog-fired' && event.node === 'n2');
      assert.equal((await labStatus(lab.name)).nodes[0]?.power, 'up');
    },
  ),
);

test('services restart, the guard does not; each can be stopped, started and signalled alone', { timeout: 60_000 }, (t) =>
  withLab(
    t,
    { nodes: 1, bmc: false, services: [stubService('agent'), stubService('guard', undefined, { restart: 'never' })] },
    async (lab) => {
      const [agent] = listServicePids(lab.name, 'n1', 'agent');
      assert.ok(agent !== undefined);
      assert.deepEqual(await signalService(lab.name, 'n1', 'agent', 'SIGKILL'), [agent]);
      await eventually('agent again', 5_000, () => listServicePids(lab.name, 'n1', 'agent').some((pid) => pid !== agent));
      await signalService(lab.name, 'n1', 'guard', 'SIGKILL');
      await lab.waitForEvent('guard gone', (event) => event.event === 'service-exited' && event.service === 'guard');
      const stopped = await stopService(lab.name, 'n1', 'agent');
      assert.deepEqual(
        stopped.map((service) => service.running),
        [false, false],
      );
      assert.deepEqual(listServicePids(lab.name, 'n1', 'agent'), []);
      await startService(lab.name, 'n1', 'agent');
      await eventually('agent started', 5_000, () => listServicePids(lab.name, 'n1', 'agent').length === 1);
      assert.deepEqual(listServicePids(lab.name, 'n1', 'guard'), []);
      await assert.rejects(signalService(lab.name, 'n1', 'nothing', 'SIGTERM'), (error) => isAppError(error, 'missing'));
    },
  ),
);

/** Counts what arrives on the node's uplink or br0, whatever becomes of the answer. */
const readReceived = async (lab: TestLab, node: string) =>
  Number(await readInNode(lab, node, 'sh', '-c', "awk '/br0:/ { print $3 }' /proc/net/dev"));

test('links: down and up, one-way cuts, the switch off for everybody', { timeout: 90_000 }, (t) =>
  withLab(t, { nodes: 3, bmc: false, services: [stubService('agent')] }, async (lab) => {
    assert.ok(await pings(lab, '10.77.0.1'));
    assert.ok(await pingFromNode(lab, 'n1', '10.77.0.2'));

    await link(lab.name, 'n1', 'down');
    assert.deepEqual([await pings(lab, '10.77.0.1'), await pings(lab, '10.77.0.2')], [false, true]);
    await link(lab.name, 'n1', 'up');
    assert.ok(await pings(lab, '10.77.0.1'));

    await link(lab.name, 'n1', 'cut-tx');
    const beforeMs = await readReceived(lab, 'n1');
    assert.equal(await pings(lab, '10.77.0.1'), false);
    assert.ok((await readReceived(lab, 'n1')) > beforeMs, 'the question arrived, the answer was lost');
    await link(lab.name, 'n1', 'cut-rx');
    const received = await readReceived(lab, 'n1');
    assert.equal(await pings(lab, '10.77.0.1'), false);
    assert.equal(await readReceived(lab, 'n1'), received, 'nothing arrives');
    await plug(lab.name, 'n1', 'off');
    await plug(lab.name, 'n1', 'on');
    await eventually('n1 up', 10_000, async () => (await labStatus(lab.name)).nodes[0]?.power === 'up');
    assert.equal(await pings(lab, '10.77.0.1'), false, 'a cut outlives a boot');
    await link(lab.name, 'n1', 'up');
    assert.ok(await pings(lab, '10.77.0.1'));

    await switchPower(lab.name, 'off');
    assert.deepEqual([await pings(lab, '10.77.0.1'), await pingFromNode(lab, 'n2', '10.77.0.3')], [false, false]);
    await switchPower(lab.name, 'on');
    await eventually(
      'network back',
      5_000,
      async () => (await pings(lab, '10.77.0.1')) && (await pingFromNode(lab, 'n2', '10.77.0.3')),
    );
    await assert.rejects(link(lab.name, 'n1', { delayMs: 5 }), (error) => isAppError(error, 'unsupported'));
  }),
);

test('a management controller switches the plug, asked by the fence agent itself', { timeout: 60_000 }, (t) =>
  withLab(t, { nodes: 1, bmc: true, services: [stubService('agent')] }, async (lab) => {
    const password = readFileSync(join(labPaths(lab.name).pki, 'bmc-n1'), 'utf8').trim();
    const fence = (action: string) => {
      const lines = [
        'ip=10.77.0.11',
        'username=holdfast',
        `password=${password}`,
        'lanplus=1',
        'cipher=3',
        'power_wait=0',
        `action=${action}`,
      ];
      return runInClient(lab.name, ['fence_ipmilan'], { input: `${lines.join('\n')}\n` });
    };
    assert.match((await fence('status')).stdout, /Status: ON/);
    assert.match((await fence('off')).stdout, /Powered OFF/);
    assert.equal((await labStatus(lab.name)).nodes[0]?.power, 'off');
    assert.match((await fence('on')).stdout, /Powered ON/);
    await eventually('node up', 10_000, async () => (await labStatus(lab.name)).nodes[0]?.power === 'up');
  }),
);

/** What a lab would leave behind on this host, by its name. */
function listTraces(name: string, group: string): string[] {
  const namespaces = existsSync('/run/netns') ? readdirSync('/run/netns').filter((entry) => entry.startsWith(`hf-${name}-`)) : [];
  const mounts = readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .filter((line) => line.includes(`/${name}/`) || line.includes(`hf-${name}-`));
  const folders = [group, labPaths(name).run, labPaths(name).state].filter((path) => existsSync(path));
  const processes = readdirSync('/proc').filter((pid) => /^\d+$/.test(pid) && readCommand(pid).includes(`/${name}/`));
  return [...namespaces, ...mounts, ...folders, ...processes.map((pid) => `process ${pid}: ${readCommand(pid)}`)];
}

function readCommand(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1').replaceAll('\0', ' ');
  } catch {
    return '';
  }
}

/** Brings a lab up in a process of its own, which is its owner; returns that process once the lab is up. */
async function startOwner(t: TestContext, name: string, extra: string): Promise<ReturnType<typeof spawn>> {
  const upModule = fileURLToPath(new URL('../../src/lab/lab-up.ts', import.meta.url));
  const source = `
    const { labUp } = await import(${JSON.stringify(upModule)});
    const services = [{ name: 'agent', argv: ['sleep', '1000'], restart: 'always', nice: 0, needsCluster: false }];
    await labUp({ name: ${JSON.stringify(name)}, nodes: 2, bmc: true, services, ttlMs: 120000, ${extra} });
    console.log('up');
    setInterval(() => {}, 1000);`;
  const owner = spawn(process.execPath, ['--input-type=module', '-e', source], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => owner.kill('SIGKILL'));
  await new Promise<void>((resolve, reject) => {
    owner.stdout.once('data', () => resolve());
    owner.once('exit', (code) => reject(new Error(`the owner ended with ${code}`)));
  });
  owner.removeAllListeners('exit');
  return owner;
}

test('a lab ends with its owner and leaves nothing', { timeout: 60_000 }, async (t) => {
  const name = `own${process.pid}`;
  t.after(() => labDown(name));
  const owner = await startOwner(t, name, 'ownerPid: process.pid');
  const group = requireLabSpec(name).cgroup;
  assert.ok(listTraces(name, group).length > 8, 'there is something to leave behind');
  owner.kill('SIGKILL');
  await eventually('nothing left', 15_000, () => listTraces(name, group).length === 0).catch((error: unknown) => {
    throw new Error(`left: ${listTraces(name, group).join('\n')}`, { cause: error });
  });
});

test(
  'a crashed room takes its nodes along, and both a new start and an end clean up after it',
  { timeout: 60_000 },
  async (t) => {
    const name = `crash${process.pid}`;
    t.after(() => labDown(name));
    await startOwner(t, name, '');
    const group = requireLabSpec(name).cgroup;
    await assert.rejects(startOwner(t, name, ''), 'a lab that is up is not replaced');
    process.kill((await labStatus(name)).pid, 'SIGKILL');
    await eventually('nodes dead', 5_000, () => !isPopulated(group));
    await assert.rejects(labStatus(name), (error) => isAppError(error, 'unavailable'));
    writeFileSync(join(nodePaths(name, 'n1').data, 'old'), 'of the crashed lab');

    await startOwner(t, name, '');
    assert.equal(existsSync(join(nodePaths(name, 'n1').data, 'old')), false);
    process.kill((await labStatus(name)).pid, 'SIGKILL');
    assert.equal(labContext(name).nodes.length, 2);
    assert.equal(await labDown(name), true);
    assert.deepEqual(listTraces(name, group), []);
    assert.equal(await labDown(name), false);
  },
);
