import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { test } from 'node:test';
import { createBell } from '#programs/agent/bell.ts';
import { pause } from './pause.ts';

test('waiting leaves nothing behind on a signal that lives as long as its program', async () => {
  const { signal } = new AbortController();
  const bell = createBell();
  for (let round = 0; round < 5; round += 1) {
    await pause(1, signal);
    await bell.next(1, signal);
    setImmediate(() => bell.ring());
    await bell.next(60_000, signal);
  }
  assert.equal(getEventListeners(signal, 'abort').length, 0);
});

test('a signal that aborts ends a wait at once', async () => {
  const controller = new AbortController();
  const waits = [pause(60_000, controller.signal), createBell().next(60_000, controller.signal)];
  controller.abort();
  await Promise.all(waits);
  await pause(60_000, controller.signal);
});
