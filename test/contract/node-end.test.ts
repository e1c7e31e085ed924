import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import { keys } from '#core/ha/keys.ts';
import type { AgentRecord } from '#core/ha/records.ts';
import type { RequestOrder } from '#core/ha/requests.ts';
import { type AgentRig, buildAgentRig, hangAfter, type RigAgent } from './checker/agent-rig.ts';
import { endProcess } from './checker/node-rig.ts';
import { until } from './checker/until.ts';

const vmid = 100;
const powerOff: Extract<RequestOrder, { kind: 'node-end' }> = { kind: 'node-end', request: 'power-off', policy: null };
const reboot: typeof powerOff = { ...powerOff, request: 'reboot' };

async function runOnN1(rig: AgentRig): Promise<void> {
  await rig.createGuest(vmid, 'n1');
  const order = await rig.order(vmid, { kind: 'run', promote: null });
  assert.equal((await rig.ended(vmid, order)).end?.result, 'ok');
  await until('it has written some numbers', 20_000, async () => (await rig.look('n1', vmid)).newest > 5);
}

async function agentRecord(rig: AgentRig): Promise<AgentRecord | null> {
  const entry = await rig.store.read(keys.nodeAgent('n1'));
  return entry === null ? null : (JSON.parse(entry.value) as AgentRecord);
}

/** A round of the agent has passed since the call. */
async function aRoundPasses(rig: AgentRig, other: number): Promise<void> {
  await rig.createGuest(other, 'n1');
  await rig.ended(other, await rig.order(other, { kind: 'stop', promote: null }));
}

const ignore = async () => {};

test('for a reboot the guests stop and wait: the same agent, or the next one of this boot, starts them only when the node stays', async (t) => {
  const rig = await buildAgentRig(t, ['n1']);
  const agent = rig.startAgent('n1');
  await runOnN1(rig);
  assert.deepEqual([(await agentRecord(rig))?.mode, (await agentRecord(rig))?.bootId], ['active', 'b']);
  await rig.enter(vmid, { kind: 'active', seenRunning: true, recovered: false });
  const texts: string[] = [];
  const ended = agent.nodeEnd.end(reboot, async (text) => void texts.push(text));
  await until('the manager is what it waits for', 20_000, () => texts.some((text) => /has not frozen it/.test(text)));
  assert.equal((await agentRecord(rig))?.mode, 'restart');
  await rig.enter(vmid, { kind: 'frozen' });
  assert.deepEqual(await ended, [
    'n1 may end (policy conditional, a reboot: guests wait for the node)',
    'guest 100 numbers is stopped and waits for this node',
  ]);
  const left = await rig.look('n1', vmid);
  assert.equal(left.saidBye, true);
  await rig.order(vmid, { kind: 'run', promote: null });
  await aRoundPasses(rig, 101);
  await agent.crash();
  const next = rig.startAgent('n1');
  await aRoundPasses(rig, 102);
  assert.deepEqual(next.loop.running(), []);
  assert.deepEqual(await rig.look('n1', vmid), left);

  assert.deepEqual(await next.nodeEnd.stay(), ['n1 takes guests again']);
  assert.equal((await agentRecord(rig))?.mode, 'active');
  await until('it goes on', 20_000, async () => (await rig.look('n1', vmid)).newest > left.newest);
});

test('for a power-off each guest is given up to every node that holds its last state', async (t) => {
  const rig = await buildAgentRig(t, ['n1', 'n2', 'n3']);
  const agent = rig.startAgent('n1');
  await runOnN1(rig);
  const lines = await agent.nodeEnd.end(powerOff, ignore);
  assert.match(lines[1] ?? '', /guest 100 numbers was given up; n[23], n[23] can start it/);
  assert.equal((await agentRecord(rig))?.mode, 'shutdown');
  const { order, givenUp } = await rig.record(vmid);
  assert.deepEqual([order, givenUp?.orderId, givenUp?.copiedTo.toSorted()], [null, null, ['n2', 'n3']]);
  const left = await rig.look('n1', vmid);
  assert.ok(left.saidBye && left.consistent);
  for (const node of ['n2', 'n3']) {
    assert.deepEqual(await rig.look(node, vmid), left);
    assert.deepEqual(rig.rig.record.replicas.get(`${vmid}/${node}`)?.point, givenUp?.point);
  }
  await rig.rehome(vmid, 'n3');
  rig.startAgent('n3');
  await until('it goes on on n3', 20_000, async () => (await rig.look('n3', vmid)).newest > left.newest);
});

/** The guest was stopped on n1 and was not given up; when the node stays it goes on there. */
async function staysAtHome(rig: AgentRig, agent: RigAgent): Promise<void> {
  const left = await rig.look('n1', vmid);
  assert.ok(left.saidBye);
  const { home, givenUp, order } = await rig.record(vmid);
  assert.deepEqual([home, givenUp, order?.kind], ['n1', undefined, 'run']);
  if (agent.nodeMode.mode() !== 'active') await agent.nodeEnd.stay();
  await until('it goes on', 20_000, async () => (await rig.look('n1', vmid)).newest > left.newest);
}

test('a guest whose last state reaches no other node is stopped, not given up, and that is said', async (t) => {
  const rig = await buildAgentRig(t, ['n1', 'n2']);
  const agent = rig.startAgent('n1');
  await runOnN1(rig);
  await endProcess(rig.node('n2').relay);
  const lines = await agent.nodeEnd.end(powerOff, ignore);
  assert.match(lines[1] ?? '', /guest 100 numbers is stopped here and was NOT given up, .*n2/);
  assert.deepEqual(agent.loop.running(), []);
  await staysAtHome(rig, agent);
});

test('a node that stays after all takes back what it was about to give up', async (t) => {
  const rig = await buildAgentRig(t, ['n1', 'n2']);
  const agent: RigAgent = rig.startAgent('n1', (edge) => ({
    ...edge,
    storage: {
      ...edge.storage,
      noteHandedOver: async (...args) => {
        await edge.storage.noteHandedOver(...args);
        if (agent.nodeMode.mode() === 'shutdown') await agent.nodeEnd.stay();
      },
    },
  }));
  await runOnN1(rig);
  await assert.rejects(
    agent.nodeEnd.end(powerOff, ignore),
    (error) => isAppError(error, 'conflict') && /taken back/.test(error.message),
  );
  await staysAtHome(rig, agent);
});

test('the end of a node goes on under the next agent', async (t) => {
  const rig = await buildAgentRig(t, ['n1', 'n2']);
  const died = Promise.withResolvers<void>();
  const first = rig.startAgent('n1', (edge) => ({
    ...edge,
    replication: hangAfter(edge.replication, 'sendLast', () => died.resolve()),
  }));
  await runOnN1(rig);
  const cut = first.nodeEnd.end(powerOff, ignore).catch(() => {});
  await died.promise;
  await first.crash();
  const next = rig.startAgent('n1');
  await until('it has found out its mode', 5_000, () => next.nodeMode.isLoaded());
  // As requests.ts begins a request again that it finds running.
  assert.match((await next.nodeEnd.end(powerOff, ignore))[1] ?? '', /was given up; n2 can start it/);
  assert.deepEqual(await rig.look('n2', vmid), await rig.look('n1', vmid));
  await first.nodeEnd.stay();
  await cut;
});

test('a drained node may end when its guests live elsewhere', async (t) => {
  const rig = await buildAgentRig(t, ['n1', 'n2']);
  const agent = rig.startAgent('n1');
  await runOnN1(rig);
  const texts: string[] = [];
  const ended = agent.nodeEnd.end({ ...powerOff, policy: 'migrate' }, async (text) => void texts.push(text));
  await until('it says what it waits for', 10_000, () => texts.includes('guest 100 numbers has not left'));
  assert.equal((await agentRecord(rig))?.mode, 'maintenance');
  await rig.order(vmid, { kind: 'move', to: 'n2', promote: null });
  await rig.givenUp(vmid);
  await rig.rehome(vmid, 'n2');
  assert.deepEqual((await ended)[1], 'guest 100 numbers has moved to n2');
});
