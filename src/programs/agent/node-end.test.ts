import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createNodeEnd } from '#programs/agent/node-end.ts';
import { createNodeMode } from '#programs/agent/node-mode.ts';
import type { World } from '#programs/agent/world.ts';
import { createMemoryStore } from '../../../test/fakes/memory-store.ts';

const clock = { bootMs: () => 0, wallMs: () => 7 };
const emptyWorld: World = {
  isReady: () => true,
  read: () => null,
  revision: () => 0n,
  list: () => [],
};

test('an agent that has just started prepares the end that was asked for, as the agent before it had begun', async () => {
  const store = createMemoryStore();
  const stop = new AbortController();
  const makeMode = () => createNodeMode({ self: 'n1', bootId: 'b1', store, clock, onChange: () => {} });
  const before = makeMode();
  await before.load(stop.signal);
  await before.set('maintenance', 'policy migrate');

  const nodeMode = makeMode();
  const guests = { running: () => [], whyNotCopied: () => null };
  const nodeEnd = createNodeEnd({ self: 'n1', world: emptyWorld, clock, nodeMode, guests, log: { info: () => {} } });
  const ends = nodeEnd.end({ kind: 'node-end', request: 'reboot', policy: 'freeze' }, async () => {});
  await nodeMode.load(stop.signal);
  const [line = ''] = await ends;
  assert.match(line, /^n1 may end/);
  assert.equal(nodeMode.mode(), 'maintenance', 'guests that were to leave first go on leaving, whatever is asked now');
});
