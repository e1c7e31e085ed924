import assert from 'node:assert/strict';
import type { AgentRig } from './agent-rig.ts';
import { until } from './until.ts';

/** The guest of the tests of a move from n1 to n2. */
export const vmid = 100;

/** The guest runs on n1 and has written some numbers. */
export async function runOnN1(rig: AgentRig): Promise<void> {
  await rig.createGuest(vmid, 'n1');
  const order = await rig.order(vmid, { kind: 'run', promote: null });
  const status = await rig.ended(vmid, order);
  assert.deepEqual([status.state, status.end?.result], ['running', 'ok']);
  await goesOn(rig, 'n1', 0);
}

/** The guest runs on the node and writes past `newest`. */
export async function goesOn(rig: AgentRig, node: string, newest: number): Promise<void> {
  await until(`it runs on ${node}`, 20_000, async () => {
    const status = await rig.status(vmid);
    return status?.node === node && status.state === 'running';
  });
  await until(`it writes on ${node}`, 20_000, async () => (await rig.look(node, vmid)).newest > newest + 5);
}

/** The guest was given up to n2: n2 holds what n1 holds, and takes over from there without a tail on n1. */
export async function takeOver(rig: AgentRig): Promise<void> {
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
