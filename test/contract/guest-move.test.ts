import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { RunningGuest } from '#ports/hypervisor.ts';
import { type AgentEdge, type AgentRig, buildAgentRig, changeGuests, type RigAgent } from './checker/agent-rig.ts';
import { goesOn, runOnN1, takeOver, vmid } from './checker/moved-guest.ts';
import { endProcess } from './checker/node-rig.ts';
import { until } from './checker/until.ts';

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
  // Until the new home has begun from it the former one keeps its disks as they are, and tells of them as a copy.
  assert.deepEqual(rig.rig.record.replicas.get(`${vmid}/n1`)?.point, point);
  await rig.rehome(vmid, 'n2');
  const [copy] = await rig.node('n1').storage.listCopies();
  assert.deepEqual([copy?.role, copy?.handedOver?.point], ['primary', point]);
  assert.deepEqual(await rig.look('n1', vmid), left);
  assert.deepEqual(await rig.look('n2', vmid), left);
  rig.startAgent('n2');
  await goesOn(rig, 'n2', left.newest);
  await until('n1 has demoted its copy', 20_000, async () => (await rig.node('n1').storage.listCopies())[0]?.role === 'replica');
  assert.deepEqual((await rig.node('n1').storage.listCopies())[0]?.leftBehind, []);
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
