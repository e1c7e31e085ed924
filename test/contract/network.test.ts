import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { createNetwork } from '#adapters/network/guest-ports.ts';
import { listLinks } from '#adapters/network/ip-command.ts';
import { isAppError } from '#base/error.ts';

const run = promisify(execFile);
const insideMark = 'HOLDFAST_TEST_INSIDE_NETNS';
const owner = { uid: 64123, gid: 64124 };
const nic = (bridge: string) => ({ mac: '52:54:00:00:00:01', bridge });

async function makeBridge(t: TestContext, name: string, ...more: string[]): Promise<void> {
  await run('ip', ['link', 'add', name, ...more, 'type', 'bridge']);
  t.after(() => run('ip', ['link', 'del', name]));
}

async function readPort(name: string) {
  return (await listLinks()).find((link) => link.name === name);
}

async function readOwner(name: string): Promise<unknown> {
  const { stdout } = await run('ip', ['-j', '-d', 'link', 'show', 'dev', name]);
  const [link] = JSON.parse(stdout) as [{ linkinfo: { info_data: { user: number; group: number } } }];
  return { uid: link.linkinfo.info_data.user, gid: link.linkinfo.info_data.group };
}

if (process.env[insideMark] === undefined) {
  test('ports of guests, inside a network namespace of their own', { timeout: 30_000 }, async () => {
    // Told by NODE_TEST_CONTEXT that it is part of a test run, node would print its results in a private format.
    const env: NodeJS.ProcessEnv = { ...process.env, [insideMark]: '1', NODE_TEST_CONTEXT: undefined };
    const args = [
      '--net',
      '--',
      process.execPath,
      '--test',
      '--test-reporter=spec',
      '--test-isolation=none',
      import.meta.filename,
    ];
    await run('unshare', args, { env }).catch((error: { stdout: string }) => assert.fail(error.stdout));
  });
} else {
  test('a port is made for each card: owned by QEMU’s user, on its bridge, up, with the bridge’s frame size', async (t) => {
    await makeBridge(t, 'br0', 'mtu', '9000');
    await makeBridge(t, 'br1');
    const network = createNetwork(owner);
    await network.createPorts(100, [nic('br0'), nic('br1')]);
    const common = { kind: 'tun', isUp: true };
    assert.deepEqual(await readPort('hf100n0'), { name: 'hf100n0', mtu: 9000, master: 'br0', ...common });
    assert.deepEqual(await readPort('hf100n1'), { name: 'hf100n1', mtu: 1500, master: 'br1', ...common });
    assert.equal((await readPort('br0'))?.mtu, 9000);
    assert.deepEqual(await readOwner('hf100n1'), owner);
    await network.removePorts(100);
  });

  test('making ports again leaves exactly the wanted ones', async (t) => {
    await makeBridge(t, 'br0');
    await makeBridge(t, 'br1');
    await createNetwork(owner).createPorts(100, [nic('br0'), nic('br0')]);
    const other = { uid: 64200, gid: 64201 };
    const network = createNetwork(other);
    await network.createPorts(100, [nic('br1')]);
    assert.equal((await readPort('hf100n0'))?.master, 'br1');
    assert.deepEqual(await readOwner('hf100n0'), other);
    assert.equal(await readPort('hf100n1'), undefined);
    await network.removePorts(100);
  });

  test('cut ports are off the bridge and down; removal takes only the guest’s own ports', async (t) => {
    await makeBridge(t, 'br0');
    const network = createNetwork(owner);
    await network.createPorts(100, [nic('br0')]);
    await network.createPorts(1000, [nic('br0')]);
    await network.cutPorts(100);
    const cut = await readPort('hf100n0');
    assert.deepEqual([cut?.master, cut?.isUp], [null, false]);
    assert.equal((await readPort('hf1000n0'))?.master, 'br0');
    await network.removePorts(100);
    await network.removePorts(100);
    assert.equal(await readPort('hf100n0'), undefined);
    assert.notEqual(await readPort('hf1000n0'), undefined);
    await network.removePorts(1000);
  });

  test('a bridge that is not there, or is none, is named before anything is made', async (t) => {
    await makeBridge(t, 'br0');
    const network = createNetwork(owner);
    for (const bridge of ['br7', 'lo']) {
      await assert.rejects(network.createPorts(100, [nic('br0'), nic(bridge)]), (error: unknown) => {
        assert.ok(isAppError(error, 'missing'));
        assert.match(error.message, new RegExp(`guest 100: bridge ${bridge}: .*bridges here: br0`));
        return true;
      });
    }
    assert.equal(await readPort('hf100n0'), undefined);
  });
}
