import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import type { RunningGuest } from '#ports/hypervisor.ts';
import { endHalfStarted } from '#programs/agent/half-started.ts';

function makeGuest(status: string): { guest: RunningGuest; kills: () => number } {
  let kills = 0;
  const guest = {
    vmid: 100,
    exited: new Promise<{ reason: string }>(() => {}),
    qmp: { execute: () => Promise.resolve({ status }) },
    kill: () => {
      kills += 1;
      return Promise.resolve();
    },
  };
  return { guest: guest as unknown as RunningGuest, kills: () => kills };
}

const log = { warn: () => {} };

test('a guest whose agent died before it let it run is ended, so that it can be started', async () => {
  const { guest, kills } = makeGuest('prelaunch');
  await endHalfStarted(guest, log);
  assert.equal(kills(), 1);
});

test('a guest that runs, or that a cycle has stopped for a point, is left alone', async () => {
  for (const status of ['running', 'paused']) {
    const { guest, kills } = makeGuest(status);
    await endHalfStarted(guest, log);
    assert.equal(kills(), 0, status);
  }
});
