import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { formatEtcdArguments, formatEtcdEnvironment, type EtcdMemberPlan } from '#adapters/etcd/etcd-arguments.ts';
import { createEtcdMembership, type EtcdMembership } from '#adapters/etcd/etcd-membership.ts';
import { createEtcdStore } from '#adapters/etcd/etcd-store.ts';
import { issueCertificate } from '#adapters/pki/authority.ts';
import { isAppError } from '#base/error.ts';
import { startEtcdCluster, type TestCluster } from './etcd-cluster.ts';

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function until<T>(what: string, look: () => Promise<T | null>): Promise<T> {
  const untilMs = performance.now() + 20_000;
  for (;;) {
    const found = await look();
    if (found !== null) return found;
    if (performance.now() > untilMs) throw new Error(`${what}: not within 20 s`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** A plan for one more member beside those of `cluster`. */
async function planMember(cluster: TestCluster, directory: string): Promise<EtcdMemberPlan> {
  const [clientPort, peerPort] = [await freePort(), await freePort()];
  const out = { certFile: join(directory, 'new.pem'), keyFile: join(directory, 'new.key') };
  await issueCertificate(cluster.authorityDirectory, { name: 'new', addresses: ['127.0.0.1'], kind: 'node', out });
  return {
    name: 'new',
    dataDirectory: join(directory, 'data'),
    address: '127.0.0.1',
    clientPort,
    peerPort,
    initialMembers: [],
    clusterToken: 'ignored',
    initialState: 'existing',
    tls: { caFile: cluster.tls.caFile, ...out },
  };
}

/** Runs etcd as the unit does: everything from its environment. */
function startFromEnvironment(plan: EtcdMemberPlan): Disposable {
  const lines = formatEtcdEnvironment(plan).trim().split('\n');
  const env = Object.fromEntries(lines.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]));
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'etcd'], {
    stdio: 'ignore',
    env: { ...env, PATH: process.env['PATH'] },
  });
  return { [Symbol.dispose]: () => void child.kill('SIGKILL') };
}

async function promoteWhenReady(membership: EtcdMembership, id: bigint): Promise<void> {
  await until('the new member has caught up', async () => {
    try {
      await membership.promote(id);
      return true;
    } catch (error) {
      if (isAppError(error, 'busy')) return null;
      throw error;
    }
  });
}

test('the environment says what the arguments say', () => {
  const tls = { caFile: '/ca', certFile: '/c', keyFile: '/k' };
  const members = [{ name: 'a', address: '10.0.0.1', peerPort: 2380 }];
  const common = { dataDirectory: '/d', address: '10.0.0.1', clientPort: 2379, peerPort: 2380, clusterToken: 't', tls };
  const plan: EtcdMemberPlan = { name: 'a', ...common, initialMembers: members, initialState: 'new' };
  const text = formatEtcdEnvironment(plan);
  assert.match(text, /^ETCD_NAME=a$/m);
  assert.match(text, /^ETCD_LISTEN_CLIENT_URLS=https:\/\/10\.0\.0\.1:2379$/m);
  assert.match(text, /^ETCD_INITIAL_CLUSTER=a=https:\/\/10\.0\.0\.1:2380$/m);
  assert.equal(text.trim().split('\n').length, formatEtcdArguments(plan).length);
});

test(
  'a member is added as a learner, catches up, votes, and goes again; each may be asked for twice',
  { timeout: 90_000 },
  async () => {
    const directory = await mkdtemp(join(tmpdir(), 'membership-'));
    await using cluster = await startEtcdCluster({ count: 1 });
    await using store = createEtcdStore({ endpoints: cluster.endpoints, tls: cluster.tls });
    await using membership = createEtcdMembership({ endpoints: cluster.endpoints, tls: cluster.tls });
    const seen: string[][] = [];
    const followMembers = { everyMs: 200, onMembers: (endpoints: string[]) => seen.push(endpoints) };
    await using follower = createEtcdStore({ endpoints: cluster.endpoints, tls: cluster.tls, followMembers });
    try {
      await store.commit([], [{ key: '/kept', value: 'yes' }]);
      const plan = await planMember(cluster, directory);
      const peerUrl = `https://127.0.0.1:${plan.peerPort}`;
      await membership.addLearner(peerUrl);
      await membership.addLearner(peerUrl);
      const listed = await membership.list();
      assert.equal(listed.length, 2);
      const added = listed.find(({ peerUrls }) => peerUrls.includes(peerUrl))!;
      assert.deepEqual([added.name, added.isLearner, added.clientUrls], ['', true, []]);
      await assert.rejects(membership.promote(added.id), (error) => isAppError(error, 'busy'));
      // A member that has never run costs the store nothing.
      assert.equal((await store.read('/kept'))?.value, 'yes');

      const initialMembers = listed.map(({ name, peerUrls }) => ({
        name: name === '' ? 'new' : name,
        address: '127.0.0.1',
        peerPort: Number(new URL(peerUrls[0]!).port),
      }));
      using _member = startFromEnvironment({ ...plan, initialMembers });
      await promoteWhenReady(membership, added.id);
      await membership.promote(added.id);
      assert.deepEqual(
        (await membership.list()).map(({ isLearner }) => isLearner),
        [false, false],
      );

      const own = `https://127.0.0.1:${plan.clientPort}`;
      await until('a store that follows the members knows the new one', () =>
        Promise.resolve(seen.at(-1)?.includes(own) === true ? true : null),
      );
      assert.equal((await follower.read('/kept'))?.value, 'yes');
      await until('the removal is taken', async () => {
        try {
          await membership.remove(added.id);
          return true;
        } catch (error) {
          if (isAppError(error, 'busy', 'unavailable')) return null;
          throw error;
        }
      });
      await membership.remove(added.id);
      assert.equal((await membership.list()).length, 1);
      await until('a store that follows the members forgets it', () =>
        Promise.resolve(seen.at(-1)?.includes(own) === false ? true : null),
      );
      assert.equal((await follower.read('/kept'))?.value, 'yes');
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  },
);
