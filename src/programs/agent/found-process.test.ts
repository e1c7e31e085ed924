import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import { AppError } from '#base/error.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import { lookAtFound } from '#programs/agent/found-process.ts';

function makeGuest(answers: (string | null)[]): { guest: RunningGuest; end: () => void } {
  const exit = Promise.withResolvers<{ reason: string }>();
  const guest = {
    vmid: 100,
    exited: exit.promise,
    readState: () => {
      const answer = answers.shift() ?? null;
      return answer === null ? Promise.reject(new AppError('timeout', 'frozen')) : Promise.resolve(answer);
    },
  };
  return { guest: guest as unknown as RunningGuest, end: () => exit.resolve({ reason: 'killed' }) };
}

test('a QEMU that does not answer is asked again until it does', async () => {
  const { guest } = makeGuest([null, null, 'halted']);
  assert.equal(await lookAtFound(guest), 'halted');
});

test('a QEMU that ends without an answer is nothing to look at any more', async () => {
  const { guest, end } = makeGuest([]);
  const look = lookAtFound(guest);
  end();
  assert.equal(await look, null);
});
