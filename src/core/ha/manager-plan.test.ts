import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { type GuestFacts, type ManagerFacts, type NodeFacts, planManagerRound } from '#core/ha/manager-plan.ts';
import type { Permit } from '#core/ha/records.ts';

const granted = (epoch: number): Permit => ({ state: 'granted', epoch, bootId: 'b', claimMs: 15_000, grantedAtMs: 0 });
const revoked = (epoch: number): Permit => ({
  state: 'revoked',
  epoch,
  revokedEpoch: epoch - 1,
  proof: { kind: 'silence', heartbeatSeq: 1, silentMs: 15_000, claimMs: 15_000, observer: 'n2' },
  managerEpoch: 1,
  revokedAtMs: 0,
});

function node(name: string, permit: Permit, silentMs = 100): NodeFacts {
  return {
    name,
    info: {
      name,
      address: 'a',
      relayPort: 1,
      bootId: 'b',
      accelerator: 'tcg',
      qemuVersion: '7.2',
      cores: 2,
      memoryMb: 4096,
      watchdog: null,
      primaryCopies: [],
      problems: [],
    },
    permit: { value: permit, modRevision: 11n },
    heartbeat: {
      value: { seq: 1, epoch: permit.epoch, bootId: 'b', phase: 'serving', agentSilentMs: 0, load: null, sentAtMs: 50_000 },
      modRevision: 12n,
    },
    silence: { kind: 'counted', silentMs },
    lastSightBootMs: 0,
    controller: null,
  };
}

function guest(change: Partial<GuestRecord> = {}, want: 'started' | 'stopped' | 'disabled' | 'ignored' = 'started'): GuestFacts {
  const order = { id: 1, kind: 'run', nodeEpoch: 3, managerEpoch: 1, promote: null, lostAtMs: null, issuedAtMs: 0 } as const;
  return {
    record: {
      vmid: 100,
      name: 'db',
      config: { cores: 1, memoryMb: 512, disks: [], nics: [], boot: null },
      home: 'n1',
      generation: 1,
      order,
      ...change,
    },
    modRevision: 20n,
    resource: { vmid: 100, want, maxDataAgeMs: null },
    resourceRevision: 5n,
  };
}

function facts(nodes: NodeFacts[], guests: GuestFacts[] = [guest()]): ManagerFacts {
  return {
    self: 'n2',
    managerEpoch: 1,
    nodes,
    guests,
    replicas: [
      {
        vmid: 100,
        node: 'n2',
        source: 'n1',
        point: { generation: 1, seq: 8 },
        pointAtMs: 45_000,
        appliedAtMs: 45_100,
        lastCycle: { kind: 'delta', bytes: 1, tookMs: 1, pausedMs: 1 },
        leftBehind: [],
      },
    ],
    timing: { renewMs: 1000, softMs: 6000, claimMs: 15_000 },
    readsApartMs: 500,
    agentSilentMs: 60_000,
  };
}

test('a healthy cluster with valid orders plans nothing', () => {
  const plan = planManagerRound(facts([node('n1', granted(3)), node('n2', granted(1))]), 0, 0);
  assert.deepEqual(plan.steps, []);
});

test('a silent node is claimed first; its guests move only after the claim stands', () => {
  const plan = planManagerRound(facts([node('n1', granted(3), 15_000), node('n2', granted(1))]), 0, 0);
  assert.deepEqual(
    plan.steps.map((step) => step.kind),
    ['claim'],
  );
  const claim = plan.steps[0];
  assert.ok(claim?.kind === 'claim');
  assert.equal(claim.next.epoch, 4);
  assert.equal(claim.heartbeatRevision, 12n);
});

test('a guest of a claimed node is ordered onto the copy’s node with the next generation', () => {
  const plan = planManagerRound(facts([node('n1', revoked(4), 16_000), node('n2', granted(1))]), 0, 77);
  const order = plan.steps[0];
  assert.ok(order?.kind === 'order');
  assert.equal(order.next.home, 'n2');
  assert.equal(order.next.generation, 2);
  assert.deepEqual(order.next.order, {
    id: 2,
    kind: 'run',
    nodeEpoch: 1,
    managerEpoch: 1,
    promote: { generation: 1, seq: 8 },
    lostAtMs: 50_000,
    issuedAtMs: 77,
  });
  assert.equal(order.permitRevision, 11n);
  assert.deepEqual(order.lostPermit, { node: 'n1', modRevision: 11n });
});

test('a home that came back under a new epoch gets its guest ordered again with its own disks', () => {
  const plan = planManagerRound(facts([node('n1', granted(5)), node('n2', granted(1))]), 0, 0);
  const order = plan.steps[0];
  assert.ok(order?.kind === 'order');
  assert.equal(order.next.home, 'n1');
  assert.equal(order.next.generation, 1);
  assert.equal(order.next.order?.nodeEpoch, 5);
});

test('a home that is back but not serving yet only defers', () => {
  const back = node('n1', granted(5));
  if (back.heartbeat) back.heartbeat.value = { ...back.heartbeat.value, phase: 'frozen' };
  const plan = planManagerRound(facts([back, node('n2', granted(1))]), 0, 0);
  assert.deepEqual(
    plan.steps.map((step) => step.kind),
    ['defer'],
  );
});

test('an ignored or unmanaged guest is never ordered; a disabled one is not recovered', () => {
  const nodes = () => [node('n1', revoked(4)), node('n2', granted(1))];
  assert.deepEqual(planManagerRound(facts(nodes(), [guest({}, 'ignored')]), 0, 0).steps, []);
  assert.deepEqual(planManagerRound(facts(nodes(), [{ ...guest(), resource: null }]), 0, 0).steps, []);
  assert.deepEqual(planManagerRound(facts(nodes(), [guest({}, 'disabled')]), 0, 0).steps, []);
});

test('a stopped guest of a lost node is recovered as a stop order', () => {
  const plan = planManagerRound(facts([node('n1', revoked(4)), node('n2', granted(1))], [guest({}, 'stopped')]), 0, 0);
  const order = plan.steps[0];
  assert.ok(order?.kind === 'order');
  assert.equal(order.next.order?.kind, 'stop');
});

test('guests recovered in one round share the room that is left', () => {
  const second = guest({ vmid: 101, config: { cores: 1, memoryMb: 3800, disks: [], nics: [], boot: null } });
  const base = facts(
    [node('n1', revoked(4)), node('n2', granted(1))],
    [guest(), { ...second, resource: { vmid: 101, want: 'started', maxDataAgeMs: null } }],
  );
  const copy = base.replicas[0];
  assert.ok(copy);
  base.replicas.push({ ...copy, vmid: 101 });
  const plan = planManagerRound(base, 0, 0);
  assert.deepEqual(
    plan.steps.map((step) => step.kind),
    ['order', 'defer'],
  );
});

test('an agent silent past its deadline: its guard is asked to release the node', () => {
  const silent = node('n1', granted(3));
  if (silent.heartbeat) silent.heartbeat.value = { ...silent.heartbeat.value, agentSilentMs: 60_001 };
  const plan = planManagerRound(facts([silent, node('n2', granted(1))]), 0, 0);
  assert.deepEqual(
    plan.steps.map((step) => step.kind),
    ['ask-release'],
  );
});

test('a recovery that its home declined goes to the next copy, although that home is alive', () => {
  const declined = [{ node: 'n1', point: { generation: 1, seq: 9 }, lostAtMs: 46_000, because: 'disk0 is damaged' }];
  const plan = planManagerRound(
    facts([node('n1', granted(3)), node('n2', granted(1))], [guest({ order: null, declined })]),
    0,
    0,
  );
  const order = plan.steps[0];
  assert.ok(order?.kind === 'order');
  assert.equal(order.next.home, 'n2');
  assert.equal(order.next.generation, 2);
  assert.equal(order.next.order?.lostAtMs, 46_000);
});

test('a declined copy is not tried again until it has a newer point', () => {
  const nodes = () => [node('n1', revoked(4)), node('n2', granted(1))];
  const seq = (n: number) => [{ node: 'n2', point: { generation: 1, seq: n }, lostAtMs: null, because: 'disk0 is damaged' }];
  const again = planManagerRound(facts(nodes(), [guest({ declined: seq(8) })]), 0, 0).steps[0];
  assert.ok(again?.kind === 'defer');
  assert.match(again.because, /n2: disk0 is damaged/);
  assert.equal(planManagerRound(facts(nodes(), [guest({ declined: seq(7) })]), 0, 0).steps[0]?.kind, 'order');
});

test('power that was cut comes back, whichever proof the claim was made by', () => {
  const silent = node('n1', revoked(4), 16_000);
  silent.controller = { name: 'c', evidence: { reads: [], offAskedAtBootMs: 5, onAskedAtBootMs: null, busy: false } };
  const plan = planManagerRound(facts([silent, node('n2', granted(1))], []), 0, 0);
  assert.deepEqual(
    plan.steps.map((step) => step.kind === 'ask-controller' && step.action),
    ['on'],
  );
});

test('an order names the revision of the wish that it follows', () => {
  const plan = planManagerRound(facts([node('n1', granted(5)), node('n2', granted(1))]), 0, 0);
  assert.ok(plan.steps[0]?.kind === 'order');
  assert.equal(plan.steps[0].resourceRevision, 5n);
});

test('a later leader gives back the power that an earlier one cut', () => {
  const cut: Permit = { ...(revoked(4) as Extract<Permit, { state: 'revoked' }>), powerCut: true };
  const silent = node('n1', cut, 16_000);
  silent.controller = { name: 'c', evidence: { reads: [], offAskedAtBootMs: null, onAskedAtBootMs: null, busy: false } };
  const plan = planManagerRound(facts([silent, node('n2', granted(1))], []), 0, 0);
  assert.deepEqual(
    plan.steps.map((step) => step.kind === 'ask-controller' && step.action),
    ['on'],
  );
  silent.controller = { name: 'c', evidence: { reads: [], offAskedAtBootMs: null, onAskedAtBootMs: 9, busy: false } };
  assert.deepEqual(planManagerRound(facts([silent, node('n2', granted(1))], []), 0, 0).steps, []);
});

test('a claim after the controller was asked to cut the power says so', () => {
  const silent = node('n1', granted(3), 15_000);
  silent.controller = { name: 'c', evidence: { reads: [], offAskedAtBootMs: 5, onAskedAtBootMs: null, busy: false } };
  const claim = planManagerRound(facts([silent, node('n2', granted(1))], []), 0, 0).steps[0];
  assert.ok(claim?.kind === 'claim' && claim.next.state === 'revoked');
  assert.equal(claim.next.powerCut, true);
});
