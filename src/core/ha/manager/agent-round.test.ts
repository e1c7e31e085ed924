import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type AgentJob, noteJob, planJobs } from '#core/ha/manager/agent-jobs.ts';
import { type AgentFacts, planAgentEnd, planAgentPermit } from '#core/ha/manager/agent-round.ts';
import { type AgentState, freshAgent } from '#core/ha/manager/agent-state.ts';
import { emptyMemory, type GuestState, type ManagerMemory } from '#core/ha/manager/memory.ts';
import { planEnd } from '#core/ha/manager/shutdown-policy.ts';

const active: GuestState = { kind: 'active', seenRunning: false, recovered: false };

function memoryWith(state: GuestState | null, patch: Partial<ManagerMemory> = {}): ManagerMemory {
  const entry = { node: 'a', orderId: 7, failedNodes: [], returnTo: null, command: null, sinceMs: 0, because: '' };
  return { ...emptyMemory(), guests: state === null ? new Map() : new Map([['1', { ...entry, state }]]), ...patch };
}

function factsWith(manager: ManagerMemory, patch: Partial<AgentFacts> = {}): AgentFacts {
  return { self: 'a', quorate: true, storeReadable: true, permitFree: true, manager, ...patch };
}

const serving: AgentState = { ...freshAgent(), phase: 'serving', armed: true };

test('it takes its permit only for work, with the quorum, and never against a fence request', () => {
  assert.equal(planAgentPermit(freshAgent(), factsWith(memoryWith(active))).permit, 'hold');
  assert.equal(planAgentPermit(freshAgent(), factsWith(memoryWith({ kind: 'frozen' }))).permit, 'keep');
  assert.equal(planAgentPermit(freshAgent(), factsWith(memoryWith(active), { quorate: false })).permit, 'keep');
  const fencing = memoryWith(active, { nodes: new Map([['a', 'fencing']]) });
  assert.equal(planAgentPermit(freshAgent(), factsWith(fencing)).permit, 'keep');
  assert.equal(planAgentPermit(serving, factsWith(fencing)).next.phase, 'lease-lost');
});

test('a failed renewal stops all work and the petting; a later renewal resumes both', () => {
  const lost = planAgentPermit(serving, factsWith(memoryWith(active), { permitFree: false }));
  assert.deepEqual([lost.next.phase, lost.permit, lost.work], ['lease-lost', 'keep', 'none']);
  const again = planAgentPermit(lost.next, factsWith(memoryWith(active)));
  assert.deepEqual([again.next.phase, again.permit, again.work], ['serving', 'hold', 'orders']);
});

test('drained, it works until nothing is left, then lets go', () => {
  const drains = new Set(['a']);
  const busy = factsWith(memoryWith(active, { drains }));
  const plan = planAgentPermit(serving, busy);
  assert.deepEqual([plan.next.phase, plan.next.mode, plan.work], ['draining', 'maintenance', 'orders']);
  assert.equal(planAgentEnd(plan.next, busy, 1).letsGo, false);
  const empty = factsWith(memoryWith(null, { drains }));
  assert.equal(planAgentEnd(plan.next, empty, 0).letsGo, true);
});

test('disarmed, it lets go once the manager has put that in force, not before', () => {
  const disarm = { mode: 'hands-off', stage: 'waiting' } as const;
  assert.equal(planAgentPermit(serving, factsWith(memoryWith(active, { disarm }))).permit, 'hold');
  const inForce = factsWith(memoryWith(active, { disarm: { ...disarm, stage: 'in-force' } }));
  const plan = planAgentPermit(serving, inForce);
  assert.deepEqual([plan.next.phase, plan.next.mode, plan.permit], ['idle', 'disarm', 'release']);
});

test('a shutdown stops guests under the permit, and ends only when all of them are stopped', () => {
  const end = planEnd('conditional', 'power-off', 'active');
  const plan = planAgentPermit({ ...serving, end }, factsWith(memoryWith(active)));
  assert.deepEqual([plan.next.mode, plan.work], ['shutdown', 'stop-all']);
  const facts = factsWith(memoryWith(active));
  assert.equal(planAgentEnd({ ...plan.next, stops: 'failed' }, facts, 1).exits, false);
  assert.deepEqual(planAgentEnd({ ...plan.next, stops: 'done' }, facts, 0).exits, true);
});

test('each policy, and a drain that goes before any of them', () => {
  assert.equal(planEnd('conditional', 'reboot', 'active').mode, 'restart');
  assert.equal(planEnd('failover', 'reboot', 'active').mode, 'shutdown');
  assert.equal(planEnd('freeze', 'power-off', 'active').mode, 'restart');
  assert.equal(planEnd('migrate', 'power-off', 'active').mode, 'maintenance');
  assert.deepEqual(planEnd('failover', 'power-off', 'maintenance').stopsGuests, false);
  assert.deepEqual(planEnd('failover', 'agent-restart', 'active').stopsGuests, false);
});

test('an order is carried out once; inactive is enforced every round', () => {
  const memory = memoryWith(active);
  const [job] = planJobs('a', memory, serving);
  assert.ok(job !== undefined);
  const done = noteJob(serving, job, 'ok', 1);
  assert.equal(done.results.get(7), 'ok');
  assert.deepEqual(planJobs('a', memory, done), []);
  assert.deepEqual(planJobs('b', memory, serving), []);
  assert.equal(planJobs('a', memoryWith({ kind: 'inactive' }), done).length, 1);
});

test('a start is tried again here, one try a round, before its failure is told; other failures are told at once', () => {
  const [job] = planJobs('a', memoryWith(active), serving) as [AgentJob];
  const once = noteJob(serving, job, 'failed', 1);
  assert.equal(once.results.size, 0);
  const twice = noteJob(once, job, 'failed', 1);
  assert.equal(twice.results.get(7), 'failed');
  assert.equal(twice.failedStarts.size, 0);
  assert.equal(noteJob(serving, job, 'wrong-node', 1).results.get(7), 'wrong-node');
});
