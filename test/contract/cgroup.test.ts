import { strict as assert } from 'node:assert';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { createGuestCgroup } from '#adapters/cgroup/guest-cgroup.ts';
import { AppError } from '#base/error.ts';
import { cgroupSkip, createTestGroup, startSleeper, waitUntil } from './guard-parts.ts';

const skip = cgroupSkip();

test('an epoch is made once, listed oldest first and gone after its removal', { skip }, () => {
  using group = createTestGroup('make');
  const cgroup = createGuestCgroup(join(group.path, 'ha'));
  assert.deepEqual(cgroup.listEpochs(), []);
  for (const epoch of [12, 3, 3]) cgroup.createEpoch(epoch);
  assert.deepEqual(cgroup.listEpochs(), [3, 12]);
  cgroup.remove(3);
  cgroup.remove(3);
  assert.deepEqual(cgroup.listEpochs(), [12]);
});

test('a missing group is frozen and empty, and orders to it change nothing', { skip }, () => {
  using group = createTestGroup('missing');
  const cgroup = createGuestCgroup(join(group.path, 'ha'));
  cgroup.createEpoch(1);
  assert.deepEqual(cgroup.readState(2), { frozen: true, populated: false });
  cgroup.freeze(2);
  cgroup.kill(2);
  cgroup.thaw(2);
  assert.deepEqual(cgroup.listEpochs(), [1]);
});

test('guests are frozen when the kernel says so, run again after a thaw, and are the same processes', { skip }, async () => {
  using group = createTestGroup('freeze');
  const cgroup = createGuestCgroup(join(group.path, 'ha'));
  cgroup.createEpoch(1);
  const sleepers = [await startSleeper(join(group.path, 'ha/e1/100')), await startSleeper(join(group.path, 'ha/e1/101'))];
  assert.deepEqual(cgroup.readState(1), { frozen: false, populated: true });
  cgroup.freeze(1);
  await waitUntil('frozen', () => cgroup.readState(1).frozen);
  const late = await startLateSleeper(join(group.path, 'ha/e1/100'));
  assert.equal(cgroup.readState(1).frozen, true, 'who enters a frozen group is frozen');
  cgroup.thaw(1);
  await waitUntil('thawed', () => !cgroup.readState(1).frozen);
  assert.ok(sleepers.every((sleeper) => sleeper.isAlive()) && late.isAlive());
});

test('a kill reaches frozen guests; only an emptied group can be removed', { skip }, async () => {
  using group = createTestGroup('kill');
  const cgroup = createGuestCgroup(join(group.path, 'ha'));
  cgroup.createEpoch(1);
  const sleeper = await startSleeper(join(group.path, 'ha/e1/100'));
  cgroup.freeze(1);
  await waitUntil('frozen', () => cgroup.readState(1).frozen);
  assert.throws(
    () => cgroup.remove(1),
    (error) => error instanceof AppError && error.kind === 'busy',
  );
  cgroup.kill(1);
  await waitUntil('empty', () => !cgroup.readState(1).populated);
  cgroup.remove(1);
  assert.equal(existsSync(join(group.path, 'ha/e1')), false);
  await waitUntil('the process is gone', () => !sleeper.isAlive());
});

test('an empty group can be frozen before anybody enters', { skip }, async () => {
  using group = createTestGroup('empty');
  const cgroup = createGuestCgroup(join(group.path, 'ha'));
  cgroup.createEpoch(1);
  cgroup.freeze(1);
  await waitUntil('frozen', () => cgroup.readState(1).frozen);
  assert.deepEqual(cgroup.readState(1), { frozen: true, populated: false });
});

test('a root whose parent is missing is refused with the path', { skip }, () => {
  const cgroup = createGuestCgroup('/sys/fs/cgroup/no-such-group/ha');
  assert.throws(
    () => cgroup.createEpoch(1),
    (error) => error instanceof AppError && error.message.includes('/sys/fs/cgroup/no-such-group/ha/e1'),
  );
});

async function startLateSleeper(group: string): Promise<{ isAlive(): boolean }> {
  const sleeper = await startSleeper(group);
  const state = readFileSync(`/proc/${sleeper.pid}/stat`, 'utf8').split(') ')[1]?.[0];
  assert.notEqual(state, 'Z');
  return sleeper;
}
