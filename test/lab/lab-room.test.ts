import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import { isPopulated, listGroupTree } from '#lab/control-group.ts';
import {
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
      // A service enters its group by itself, a moment after it was started.
      const isInGroup = (service: string) => listServicePids(lab.name, 'n1', service).length === 1;
      await eventually('both in their groups', 5_000, () => isInGroup('agent') && isInGroup('guard'));
      const [agent] = listServicePids(lab.name, 'n1', 'agent');
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
  }),
);

test('a delayed link is slower, or is refused where the kernel cannot delay', { timeout: 60_000 }, (t) =>
  withLab(t, { nodes: 1, bmc: false, services: [stubService('agent')] }, async (lab) => {
    assert.ok(await pings(lab, '10.77.0.1'));
    try {
      await link(lab.name, 'n1', { delayMs: 600 });
    } catch (error) {
      assert.ok(isAppError(error, 'unsupported'), String(error));
      assert.ok(await pings(lab, '10.77.0.1'), 'a refusal changes nothing');
      t.diagnostic(`refused: ${error.message}`);
      return;
    }
    assert.equal(await pings(lab, '10.77.0.1'), false, 'slower than half a second');
    await link(lab.name, 'n1', { delayMs: 0 });
    await eventually('quick again', 5_000, () => pings(lab, '10.77.0.1'));
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

test(
  'the real programs serve in the lab; a killed guard takes its host with it, and the host comes back',
  { timeout: 180_000 },
  (t) =>
    withLab(t, { nodes: 3, bmc: false }, async (lab) => {
      const nodes = ['n1', 'n2', 'n3'];
      for (const node of nodes)
        await lab.waitForEvent(`${node} armed`, (event) => event.event === 'watchdog-armed' && event.node === node);
      const killedAtMs = Date.now();
      await signalService(lab.name, 'n2', 'guard', 'SIGKILL');
      const fired = await lab.waitForEvent('fired', (event) => event.event === 'watchdog-fired' && event.node === 'n2');
      assert.ok(fired.atMs - killedAtMs < 6_500, `the standard profile's watchdog is 6 s, it took ${fired.atMs - killedAtMs} ms`);
      await lab.waitForEvent('served again', (event) => event.event === 'watchdog-armed' && event.node === 'n2', {
        sinceMs: fired.atMs,
        deadlineMs: 60_000,
      });
      const losses = lab.events().filter((event) => event.event === 'power-off');
      assert.deepEqual(
        losses.map((event) => [event.node, event.by]),
        [['n2', 'watchdog']],
      );
      t.diagnostic(`guard killed to power off: ${fired.atMs - killedAtMs} ms`);
    }),
);
