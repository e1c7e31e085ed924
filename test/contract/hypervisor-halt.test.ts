import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test, type TestContext } from 'node:test';
import { isAppError } from '#base/error.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import { readNumbers, writeNumberDisk } from './checker/number-guest.ts';
import { type Bench, makeBench, makeDisk, makeEpoch, makeHypervisor, makeOrder, waitFor } from './hypervisor-bench.ts';

type Started = { bench: Bench; guest: RunningGuest; disk: string };

/** A guest that counts on its disk, and has begun to. */
async function startCounting(t: TestContext): Promise<Started> {
  const bench = makeBench(t);
  makeEpoch(bench, 1);
  const image = `${bench.dataDir}/image`;
  writeNumberDisk(image);
  const order = makeOrder(bench);
  const disks = [makeDisk(bench, 'disk0', readFileSync(image))];
  const guest = await makeHypervisor(bench).start({ ...order, disks, config: { ...order.config, boot: null } });
  const disk = `${bench.dataDir}/disk0.raw`;
  assert.equal(await guest.readState(), 'prelaunch');
  await guest.resume();
  await waitFor('it to count', () => readNumbers(disk).newest > 5);
  assert.equal(await guest.readState(), 'running');
  return { bench, guest, disk };
}

/** Stops the CPUs as a replication point does, so that the guest cannot hear the power button. */
async function deafen(guest: RunningGuest): Promise<void> {
  await guest.qmp.execute('stop');
}

test('a halted guest powers down, and QEMU keeps its disks open until it is ended', async (t) => {
  const { guest, disk } = await startCounting(t);
  assert.equal(await guest.halt({ deadlineMs: 10_000 }), 'off');
  assert.equal(await guest.readState(), 'off');
  const left = readNumbers(disk);
  assert.ok(left.saidBye && left.consistent);
  // Nothing lets it run again: neither a late `cont` nor a revival.
  await assert.rejects(guest.qmp.execute('cont'), (error) => isAppError(error, 'conflict'));
  await assert.rejects(
    guest.revive(),
    (error) => isAppError(error, 'conflict') && /guest 100: it has powered down/.test(error.message),
  );
  assert.equal(await guest.halt({ deadlineMs: 10_000 }), 'off');
  const [node] = await guest.qmp.execute<{ 'node-name': string }[]>('query-named-block-nodes', { flat: true });
  assert.ok(node !== undefined);
  await guest.end();
  assert.match((await guest.exited).reason, /host-qmp-quit, exit code 0/);
  assert.deepEqual(readNumbers(disk), left);
});

test('a guest that does not power down is stopped at the deadline; revived it goes on where it was, and powers off as ever', async (t) => {
  const { guest, disk } = await startCounting(t);
  await deafen(guest);
  assert.equal(await guest.readState(), 'running', 'without the mark stopped CPUs are a replication point');
  assert.equal(await guest.halt({ deadlineMs: 0 }), 'halted');
  assert.equal(await guest.readState(), 'halted');
  const left = readNumbers(disk);
  assert.equal(left.saidBye, false);
  await guest.revive();
  assert.equal(await guest.readState(), 'running');
  await waitFor('it to go on', () => readNumbers(disk).newest > left.newest + 5);
  await guest.shutdown({ deadlineMs: 10_000 });
  assert.match((await guest.exited).reason, /guest-shutdown, exit code 0/);
  assert.equal(readNumbers(disk).saidBye, true);
});

test('the next agent sees whether CPUs were stopped for good', async (t) => {
  const { bench, guest } = await startCounting(t);
  await deafen(guest);
  await guest.halt({ deadlineMs: 0 });
  guest.qmp.close();
  const [found] = await makeHypervisor(bench).adopt();
  assert.equal(await found?.readState(), 'halted');
  // A shutdown takes the halt back as far as it has to: QEMU ends with the guest.
  await found?.qmp.execute('cont');
  assert.equal(await found?.readState(), 'halting');
  await found?.shutdown({ deadlineMs: 10_000 });
  assert.match((await guest.exited).reason, /exit code 0/);
});

test('a QEMU that does not close in order is killed', async (t) => {
  const { guest } = await startCounting(t);
  guest.qmp.close();
  await guest.end();
  assert.match((await guest.exited).reason, /SIGKILL/);
});
