import assert from 'node:assert/strict';
import { test } from 'node:test';
import { releaseExpiredTails } from './expired-tails.ts';

const dayMs = 86_400_000;

test('only tails of guests whose job says how long, and past that time, are removed', async () => {
  const released: string[] = [];
  const tail = (name: string, untilAtMs: number) => ({ name, generation: 1, sizeBytes: 1, fromAtMs: 0, untilAtMs });
  const copy = (vmid: number) => ({
    vmid,
    role: 'replica' as const,
    generation: 2,
    point: null,
    pointAtMs: null,
    leftBehind: [tail('left-behind-g1', 0), tail('left-behind-g2', 95 * dayMs)],
    handedOver: null,
  });
  await releaseExpiredTails({
    storage: {
      listCopies: async () => [copy(100), copy(101)],
      releaseLeftBehind: async (vmid, name) => void released.push(`${vmid} ${name}`),
    },
    world: {
      read: <T>(key: string) => (key.endsWith('/100') ? { key, modRevision: 1n, value: { keepTailsDays: 30 } as T } : null),
    },
    clock: { wallMs: () => 100 * dayMs },
    log: { info: () => {} },
  });
  assert.deepEqual(released, ['100 left-behind-g1']);
});
