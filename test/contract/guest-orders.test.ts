import assert from 'node:assert/strict';
import { renameSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { AppError } from '#base/error.ts';
import { keys } from '#core/ha/keys.ts';
import { type AgentEdge, type AgentRig, buildAgentRig } from './checker/agent-rig.ts';
import { until } from './checker/until.ts';

const vmid = 100;

function failsToStart(counts: { starts: number }): (edge: AgentEdge) => AgentEdge {
  return (edge) => ({
    ...edge,
    hypervisor: {
      ...edge.hypervisor,
      start: () => {
        counts.starts += 1;
        return Promise.reject(new AppError('unavailable', 'start guest 100: QEMU says: no'));
      },
    },
  });
}

async function run(rig: AgentRig): Promise<number> {
  return await rig.order(vmid, { kind: 'run', promote: null });
}

test('a start that fails is tried once more, then the order has failed, for the next agent too; a new order is tried', async (t) => {
  const rig = await buildAgentRig(t, ['n1']);
  const counts = { starts: 0 };
  const agent = rig.startAgent('n1', failsToStart(counts));
  await rig.createGuest(vmid, 'n1');
  const first = await run(rig);
  const status = await rig.ended(vmid, first);
  assert.deepEqual([status.state, status.end?.result, counts.starts], ['failed', 'failed', 2]);
  assert.match(status.because, /try 2 of 2 failed: start: .*QEMU says: no/);
  await agent.crash();
  rig.startAgent('n1', failsToStart(counts));
  // A round of the second agent has passed when it has told of another guest.
  await rig.createGuest(101, 'n1');
  await rig.ended(101, await rig.order(101, { kind: 'stop', promote: null }));
  assert.equal(counts.starts, 2);
  assert.equal((await rig.ended(vmid, await run(rig))).end?.result, 'failed');
  assert.equal(counts.starts, 4);
});

test('a trouble of the store is no failed start', async (t) => {
  const rig = await buildAgentRig(t, ['n1']);
  let refused = 0;
  rig.startAgent('n1', (edge) => ({
    ...edge,
    store: {
      ...edge.store,
      read: async (key, options) => {
        if (key === keys.nodePermit('n1') && refused < 2) {
          refused += 1;
          throw new AppError('timeout', 'the store does not answer');
        }
        return await edge.store.read(key, options);
      },
    },
  }));
  await rig.createGuest(vmid, 'n1');
  assert.equal((await rig.ended(vmid, await run(rig))).end?.result, 'ok');
  assert.equal(refused, 2);
});

test('a guest whose QEMU dies right after its start has failed to start; after enough of them the order has failed', async (t) => {
  const rig = await buildAgentRig(t, ['n1']);
  const agent = rig.startAgent('n1');
  await rig.createGuest(vmid, 'n1');
  const order = await run(rig);
  await rig.ended(vmid, order);
  const [first] = agent.loop.running();
  await first?.kill();
  const second = await until('it is started again', 15_000, () => agent.loop.running().find((guest) => guest !== first));
  await until('it runs', 10_000, async () => (await rig.status(vmid))?.state === 'running');
  await second.kill();
  const status = await until('the order has failed', 15_000, async () => {
    const now = await rig.status(vmid);
    return now?.end?.result === 'failed' ? now : null;
  });
  assert.match(status.because, /try 2 of 2 failed: it ended \d+ ms after its start: .*SIGKILL/);
  assert.deepEqual(agent.loop.running(), []);
});

test('a guest that is found running ends each new order well, under its number', async (t) => {
  const rig = await buildAgentRig(t, ['n1']);
  const first = rig.startAgent('n1');
  await rig.createGuest(vmid, 'n1');
  const began = await rig.ended(vmid, await run(rig));
  assert.ok(began.qemuStartedAtMs !== null);
  const [guest] = first.loop.running();
  await first.crash();
  const second = rig.startAgent('n1');
  const status = await rig.ended(vmid, await run(rig));
  assert.deepEqual([status.end?.result, status.qemuStartedAtMs], ['ok', began.qemuStartedAtMs]);
  assert.equal(second.loop.running()[0]?.pid, guest?.pid);

  await rig.order(vmid, { kind: 'hold', promote: null });
  const stop = await rig.order(vmid, { kind: 'stop', timeoutMs: 0, promote: null });
  assert.equal((await rig.ended(vmid, stop)).end?.result, 'ok');
  assert.deepEqual(second.loop.running(), []);
  // Killed, not asked: it did not say good-bye.
  assert.equal((await rig.look('n1', vmid)).saidBye, false);
});

test('a guest whose disk is missing is broken, and runs when the disk is back', async (t) => {
  const rig = await buildAgentRig(t, ['n1']);
  rig.startAgent('n1');
  await rig.createGuest(vmid, 'n1');
  const disk = join(rig.node('n1').directory, `dir/${vmid}/disk0-base.raw`);
  renameSync(disk, `${disk}.away`);
  const order = await run(rig);
  const broken = await rig.ended(vmid, order);
  assert.deepEqual([broken.state, broken.end?.result], ['failed', 'broken']);
  assert.match(broken.because, /guest 100.*disk0-base\.raw/);
  renameSync(`${disk}.away`, disk);
  await until('it runs', 15_000, async () => (await rig.status(vmid))?.end?.result === 'ok');
});
