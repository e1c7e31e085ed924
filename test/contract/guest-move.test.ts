import assert from 'node:assert/strict';
import { test } from 'node:test';
import { keys } from '#core/ha/keys.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import { type AgentEdge, type AgentRig, buildAgentRig, changeGuests, hangAfter, type RigAgent } from './checker/agent-rig.ts';
import { endProcess } from './checker/node-rig.ts';
import { until } from './checker/until.ts';

const vmid = 100;

/** The guest runs on n1 and has written some numbers. */
async function runOnN1(rig: AgentRig): Promise<void> {
  await rig.createGuest(vmid, 'n1');
  const order = await rig.order(vmid, { kind: 'run', promote: null });
  const status = await rig.ended(vmid, order);
  assert.deepEqual([status.state, status.end?.result], ['running', 'ok']);
  await goesOn(rig, 'n1', 0);
}

/** The guest runs on the node and writes past `newest`. */
async function goesOn(rig: AgentRig, node: string, newest: number): Promise<void> {
  await until(`it runs on ${node}`, 20_000, async () => {
    const status = await rig.status(vmid);
    return status?.node === node && status.state === 'running';
  });
  await until(`it writes on ${node}`, 20_000, async () => (await rig.look(node, vmid)).newest > newest + 5);
}

/** The guest was given up to n2: n2 holds what n1 holds, and takes over from there without a tail on n1. */
async function takeOver(rig: AgentRig): Promise<void> {
  const { point, copiedTo, node } = await rig.givenUp(vmid);
  assert.deepEqual([node, copiedTo], ['n1', ['n2']]);
  const [left, arrived] = [await rig.look('n1', vmid), await rig.look('n2', vmid)];
  assert.deepEqual(arrived, left);
  assert.ok(left.consistent && left.newest > 5);
  assert.deepEqual(rig.rig.record.replicas.get(`${vmid}/n2`)?.point, point);
  await rig.rehome(vmid, 'n2');
  await goesOn(rig, 'n2', left.newest);
  await until('n1 has demoted its copy', 20_000, async () => (await rig.node('n1').storage.listCopies())[0]?.role === 'replica');
  const [copy] = await rig.node('n1').storage.listCopies();
  assert.deepEqual(copy?.leftBehind, []);
  // All that differs is what the guest wrote since: nothing is compared.
  await until('n2 has sent n1 a point', 20_000, () => rig.rig.record.replicas.get(`${vmid}/n1`)?.point.generation === 2);
  assert.equal(rig.rig.record.replicas.get(`${vmid}/n1`)?.lastCycle.kind, 'delta');
  const before = await rig.look('n1', vmid);
  await rig.node('n2').replication.syncNow(vmid, 'n1');
  const after = await rig.look('n1', vmid);
  assert.ok(before.consistent && after.consistent && before.newest >= left.newest && after.newest > before.newest);
}

function lineOf(agent: RigAgent, event: string): RigAgent['logged'][number] | undefined {
  return agent.logged.find((line) => line.event === event);
}

test('a running guest is moved: it powers down, its last write is in the copy, and nothing is left behind', async (t) => {
  const rig = await buildAgentRig(t, ['n1', 'n2']);
  const agent = rig.startAgent('n1');
  await runOnN1(rig);
  const order = await rig.order(vmid, { kind: 'move', to: 'n2', promote: null });
  const { orderId, point } = await rig.givenUp(vmid);
  assert.deepEqual([(await rig.record(vmid)).order, orderId], [null, order]);
  const left = await rig.look('n1', vmid);
  assert.equal(left.saidBye, true);
  assert.deepEqual(agent.loop.running(), []);
  // Before any other node sends to it, the former home is a replica at the very point that it handed over.
  await rig.rehome(vmid, 'n2');
  await until('n1 has demoted its copy', 20_000, async () => (await rig.node('n1').storage.listCopies())[0]?.role === 'replica');
  const [copy] = await rig.node('n1').storage.listCopies();
  assert.deepEqual([copy?.point, copy?.leftBehind], [point, []]);
  assert.deepEqual(await rig.look('n1', vmid), left);
  assert.deepEqual(await rig.look('n2', vmid), left);
  rig.startAgent('n2');
  await goesOn(rig, 'n2', left.newest);
  t.diagnostic(String(lineOf(agent, 'guest.pre-copied')?.['text']));
  const [bytes, downMs] = [lineOf(agent, 'guest.last-point')?.['bytes'], lineOf(agent, 'guest.given-up')?.['downMs']];
  assert.ok(typeof downMs === 'number' && typeof bytes === 'number');
  t.diagnostic(`last point ${bytes} bytes; given up ${downMs} ms after its end was begun`);
});

test('a stopped guest is moved without running', async (t) => {
  const rig = await buildAgentRig(t, ['n1', 'n2']);
  rig.startAgent('n1');
  await runOnN1(rig);
  const stop = await rig.order(vmid, { kind: 'stop', promote: null });
  assert.deepEqual((await rig.ended(vmid, stop)).end?.result, 'ok');
  const stopped = await rig.look('n1', vmid);
  assert.equal(stopped.saidBye, true);
  await rig.order(vmid, { kind: 'move', to: 'n2', promote: null });
  await rig.givenUp(vmid);
  assert.deepEqual(await rig.look('n1', vmid), stopped);
  rig.startAgent('n2');
  await takeOver(rig);
});

/** Where the agent dies in the course of a move: after this step is done, before it knows. */
const crashes: Record<string, (edge: AgentEdge, dies: () => void) => AgentEdge> = {
  'the copy made while it runs': (edge, dies) => ({ ...edge, replication: hangAfter(edge.replication, 'syncNow', dies) }),
  'the end of its cycles': (edge, dies) => ({ ...edge, replication: hangAfter(edge.replication, 'stopGuest', dies) }),
  'the request to power down': (edge, dies) => ({
    ...edge,
    hypervisor: changeGuests(edge.hypervisor, (guest) => cutInHalt(guest, dies)),
  }),
  'its power-down': (edge, dies) => ({
    ...edge,
    hypervisor: changeGuests(edge.hypervisor, (guest) => hangAfter(guest, 'halt', dies)),
  }),
  'its last point': (edge, dies) => ({ ...edge, replication: hangAfter(edge.replication, 'sendLast', dies) }),
  'the end of QEMU': (edge, dies) => ({
    ...edge,
    hypervisor: changeGuests(edge.hypervisor, (guest) => hangAfter(guest, 'end', dies)),
  }),
  'the note in the manifest': (edge, dies) => ({ ...edge, storage: hangAfter(edge.storage, 'noteHandedOver', dies) }),
  'the commit that gives it up': (edge, dies) => ({ ...edge, store: hangAfterGivingUp(edge.store, dies) }),
};

function cutInHalt(guest: RunningGuest, dies: () => void): RunningGuest {
  return {
    ...guest,
    halt: (options) => {
      guest.halt(options).catch(() => {}); // its connection is cut under it
      setTimeout(dies, 30);
      return new Promise<never>(() => {});
    },
  };
}

function hangAfterGivingUp(store: AgentEdge['store'], dies: () => void): AgentEdge['store'] {
  return {
    ...store,
    commit: async (compares, writes, options) => {
      const outcome = await store.commit(compares, writes, options);
      if (!writes.some(({ key, value }) => key === keys.guest(vmid) && value?.includes('givenUp') === true)) return outcome;
      dies();
      return await new Promise<never>(() => {});
    },
  };
}

for (const [what, cut] of Object.entries(crashes)) {
  test(`a move goes on when the agent dies after ${what}`, async (t) => {
    const rig = await buildAgentRig(t, ['n1', 'n2']);
    const died = Promise.withResolvers<void>();
    const first = rig.startAgent('n1', (edge) => cut(edge, () => died.resolve()));
    await runOnN1(rig);
    await rig.order(vmid, { kind: 'move', to: 'n2', promote: null });
    await died.promise;
    await first.crash();
    rig.startAgent('n1');
    await rig.givenUp(vmid);
    rig.startAgent('n2');
    await takeOver(rig);
  });
}

test('a move to a node that does not answer fails while the guest runs on', async (t) => {
  const rig = await buildAgentRig(t, ['n1', 'n2']);
  const agent = rig.startAgent('n1');
  await runOnN1(rig);
  const [guest] = agent.loop.running();
  await endProcess(rig.node('n2').relay);
  const order = await rig.order(vmid, { kind: 'move', to: 'n2', promote: null });
  const status = await rig.ended(vmid, order);
  assert.deepEqual([status.state, status.end?.result], ['running', 'failed']);
  assert.match(status.because, /try 3 of 3 failed: pre-copy: .*n2/);
  assert.deepEqual(agent.loop.running(), [guest]);
  const again = await rig.order(vmid, { kind: 'run', promote: null });
  assert.equal((await rig.ended(vmid, again)).end?.result, 'ok');
  assert.deepEqual(agent.loop.running(), [guest]);
});

/** Its target is lost when the guest has stopped already, for the first order to move it. */
function losesTarget(rig: AgentRig): (edge: AgentEdge) => AgentEdge {
  return (edge) => ({
    ...edge,
    replication: {
      ...edge.replication,
      sendLast: async (guest, targets) => {
        await endProcess(rig.node('n2').relay);
        return await edge.replication.sendLast(guest, targets);
      },
    },
  });
}

/** As a guest that does not hear the power button: it does not execute while it is asked. */
function deaf(guest: RunningGuest): RunningGuest {
  return {
    ...guest,
    halt: async () => {
      await guest.qmp.execute('stop');
      return await guest.halt({ deadlineMs: 0 });
    },
  };
}

for (const isDeaf of [false, true]) {
  const how = isDeaf ? 'stopped because it did not power down goes on where it was' : 'powered down is started again';
  test(`a guest that could not be handed over and was ${how}`, async (t) => {
    const rig = await buildAgentRig(t, ['n1', 'n2']);
    const first = rig.startAgent('n1', (edge) => {
      const lost = losesTarget(rig)(edge);
      return isDeaf ? { ...lost, hypervisor: changeGuests(edge.hypervisor, deaf) } : lost;
    });
    await runOnN1(rig);
    const [guest] = first.loop.running();
    const order = await rig.order(vmid, { kind: 'move', to: 'n2', promote: null });
    const status = await rig.ended(vmid, order);
    assert.deepEqual([status.state, status.end?.result], ['failed', 'failed']);
    assert.match(status.because, /try 3 of 3 failed: hand-over: .*n2/);
    assert.equal(await guest?.readState(), isDeaf ? 'halted' : 'off');
    const left = await rig.look('n1', vmid);
    assert.equal(left.saidBye, !isDeaf);

    const run = await rig.order(vmid, { kind: 'run', promote: null });
    assert.equal((await rig.ended(vmid, run)).end?.result, 'ok');
    await goesOn(rig, 'n1', left.newest);
    assert.equal(first.loop.running()[0] === guest, isDeaf);
    assert.equal(await first.loop.running()[0]?.readState(), 'running');

    await first.crash();
    await rig.node('n2').startRelay();
    rig.startAgent('n1');
    await rig.order(vmid, { kind: 'move', to: 'n2', promote: null });
    await rig.givenUp(vmid);
    rig.startAgent('n2');
    await takeOver(rig);
  });
}
