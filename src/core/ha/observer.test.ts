import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createObserver, type Observer, observeHeartbeat, silenceOf } from '#core/ha/observer.ts';
import type { Heartbeat } from '#core/ha/records.ts';

const beat = (seq: number): Heartbeat => ({
  seq,
  epoch: 1,
  bootId: 'b',
  phase: 'serving',
  agentSilentMs: 0,
  load: null,
  sentAtMs: 0,
});

function see(observer: Observer, node: string, seq: number, atMs: number): Observer {
  return observeHeartbeat(observer, node, beat(seq), BigInt(seq), atMs);
}

test('silence is counted from the observer’s own last sight of a newer heartbeat', () => {
  let observer = createObserver('n1', 6000);
  observer = see(observer, 'n2', 1, 1000);
  for (let atMs = 1000; atMs <= 9000; atMs += 1000) observer = see(observer, 'n1', atMs, atMs);
  observer = see(observer, 'n2', 1, 9000); // read again, not renewed
  assert.deepEqual(silenceOf(observer, 'n2', 9500), { kind: 'counted', silentMs: 8500 });
});

test('without quorum of its own an observer concludes nothing', () => {
  let observer = createObserver('n1', 6000);
  observer = see(observer, 'n1', 1, 0);
  observer = see(observer, 'n2', 1, 0);
  assert.deepEqual(silenceOf(observer, 'n2', 4001), { kind: 'own-gap', gapMs: 4001 });
  assert.equal(silenceOf(createObserver('n1', 6000), 'n2', 0).kind, 'own-gap');
});

test('an observer that was without quorum starts every timer anew when it is back', () => {
  let observer = createObserver('n1', 6000);
  observer = see(observer, 'n1', 1, 0);
  observer = see(observer, 'n2', 1, 0);
  observer = see(observer, 'n1', 2, 20_000);
  assert.deepEqual(silenceOf(observer, 'n2', 20_100), { kind: 'counted', silentMs: 100 });
});

test('a short pause of the store, as at an election, restarts nothing', () => {
  let observer = createObserver('n1', 6000);
  observer = see(observer, 'n1', 1, 0);
  observer = see(observer, 'n2', 1, 0);
  observer = see(observer, 'n1', 2, 2500);
  assert.deepEqual(silenceOf(observer, 'n2', 2500), { kind: 'counted', silentMs: 2500 });
});

test('a node that was never seen is not silent, it is unknown', () => {
  const observer = see(createObserver('n1', 6000), 'n1', 1, 0);
  assert.deepEqual(silenceOf(observer, 'n9', 100), { kind: 'never-seen' });
});
