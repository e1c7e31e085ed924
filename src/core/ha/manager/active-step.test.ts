import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { ManagerFacts, OrderResult } from '#core/ha/manager/facts.ts';
import { emptyMemory, type GuestEntry, type ManagerMemory } from '#core/ha/manager/memory.ts';
import { plainFacts, plainGuest, plainSettings } from '#core/ha/manager/round-cluster.ts';
import { planRound } from '#core/ha/manager/round.ts';

const guests = [plainGuest('1', 'c')];

function entryIn(memory: ManagerMemory, id = '1'): GuestEntry {
  const entry = memory.guests.get(id);
  assert.ok(entry !== undefined, `guest ${id} is not managed`);
  return entry;
}

/** The memory after a round in which the order of guest 1 ended so. */
function after(memory: ManagerMemory, result: OrderResult, patch: Partial<ManagerFacts> = {}): ManagerMemory {
  const results = new Map([[entryIn(memory).orderId, result]]);
  return planRound(plainFacts({ guests, results, ...patch }), memory).memory;
}

describe('an order that stands', () => {
  const settings = { ...plainSettings, standingOrders: true };
  const ordered = planRound(plainFacts({ guests, settings }), emptyMemory()).memory;

  test('is not given again once it went well: a quiet round changes nothing', () => {
    for (const result of ['ok', 'skipped'] as const) {
      const running = after(ordered, result, { settings });
      assert.equal(entryIn(running).orderId, entryIn(ordered).orderId, result);
      const quiet = after(running, result, { settings });
      assert.deepEqual(quiet, running, result);
    }
  });

  test('is replaced when it failed and the guest stays: the try counts under a new number', () => {
    const alone = {
      settings,
      nodes: plainFacts().nodes.map((node) => ({ ...node, refusal: node.name === 'c' ? null : 'is full' })),
    };
    const failed = after(ordered, 'failed', alone);
    assert.deepEqual(entryIn(failed).failedNodes, ['c']);
    assert.notEqual(entryIn(failed).orderId, entryIn(ordered).orderId);
  });

  test('may end again: a guest that ran and cannot be started any more is tried elsewhere', () => {
    const running = after(ordered, 'ok', { settings });
    assert.equal(entryIn(after(running, 'failed', { settings })).state.kind, 'moving-live');
  });
});

test('an order that is carried out once is given again after each good end', () => {
  const ordered = planRound(plainFacts({ guests }), emptyMemory()).memory;
  assert.notEqual(entryIn(after(ordered, 'ok')).orderId, entryIn(ordered).orderId);
});
