import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { createNetwork } from '#adapters/network/guest-ports.ts';
import { isAppError } from '#base/error.ts';
import { makeBench, makeEpoch, makeHypervisor, makeOrder, user, waitFor } from './hypervisor-bench.ts';

const run = promisify(execFile);
const insideMark = 'HOLDFAST_TEST_INSIDE_NETNS';

type Port = { ifname: string; flags: string[]; master?: string };

async function readPort(name: string): Promise<Port | undefined> {
  const { stdout } = await run('ip', ['-j', 'link', 'show']);
  return (JSON.parse(stdout) as Port[]).find((link) => link.ifname === name);
}

if (process.env[insideMark] === undefined) {
  test('a guest with a network card, inside network and mount namespaces of their own', { timeout: 60_000 }, async () => {
    const env: NodeJS.ProcessEnv = { ...process.env, [insideMark]: '1', NODE_TEST_CONTEXT: undefined };
    const args = ['--net', '--mount', '--', process.execPath, '--test', '--test-reporter=spec', '--test-isolation=none'];
    await run('unshare', [...args, import.meta.filename], { env }).catch((error: { stdout: string }) =>
      assert.fail(error.stdout),
    );
  });
} else {
  test('an unprivileged QEMU holds its port on the bridge and announces itself; its end takes the port away', async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'hf-tun-'));
    t.after(() => rmSync(folder, { recursive: true }));
    // As udev makes it on a real server: everybody may open it, the owner of a tap may use that tap.
    await run('mknod', [`${folder}/tun`, 'c', '10', '200']);
    chmodSync(`${folder}/tun`, 0o666);
    await run('mount', ['--bind', `${folder}/tun`, '/dev/net/tun']);
    t.after(() => run('umount', ['/dev/net/tun']));
    await run('ip', ['link', 'add', 'br0', 'type', 'bridge']);
    await run('ip', ['link', 'set', 'br0', 'up']);
    t.after(() => run('ip', ['link', 'del', 'br0']));
    const bench = makeBench(t);
    makeEpoch(bench, 1);
    const network = createNetwork(user);
    const hypervisor = makeHypervisor(bench, { network });
    const order = makeOrder(bench);
    const withNic = (bridge: string) => ({ ...order, config: { ...order.config, nics: [{ mac: '52:54:00:00:00:01', bridge }] } });

    await assert.rejects(hypervisor.start(withNic('br9')), (error: unknown) => {
      assert.ok(isAppError(error, 'missing'));
      return /guest 100: bridge br9/.test(error.message);
    });
    assert.equal(await readPort('hf100n0'), undefined);

    const guest = await hypervisor.start(withNic('br0'));
    const port = await readPort('hf100n0');
    assert.equal(port?.master, 'br0');
    // Carrier: QEMU has the port open.
    assert.ok(port.flags.includes('LOWER_UP'), port.flags.join());
    const sentBytes = async () => {
      const { stdout } = await run('ip', ['-j', '-s', 'link', 'show', 'dev', 'hf100n0']);
      // What the bridge receives from the guest.
      return (JSON.parse(stdout) as [{ stats64: { rx: { bytes: number } } }])[0].stats64.rx.bytes;
    };
    assert.equal(await sentBytes(), 0);
    await guest.resume();
    await waitFor('the announcement', async () => (await sentBytes()) > 0);

    await network.cutPorts(100);
    assert.equal((await readPort('hf100n0'))?.master, undefined);
    await guest.kill();
    await guest.exited;
    assert.equal(await readPort('hf100n0'), undefined);
  });
}
