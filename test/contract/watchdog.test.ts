import { strict as assert } from 'node:assert';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { openWatchdog } from '#adapters/watchdog/watchdog.ts';
import { AppError, type ErrorKind } from '#base/error.ts';
import { createFolder, startStandIn, waitUntil } from './guard-parts.ts';

function refuses(kind: ErrorKind, words: RegExp, action: () => unknown): void {
  assert.throws(action, (error) => error instanceof AppError && error.kind === kind && words.test(error.message));
}

test('opening sets the timeout, reads it back and pets; every pet arrives; disarming says V last', async () => {
  using folder = createFolder();
  using standIn = await startStandIn(folder.path);
  const watchdog = openWatchdog(standIn.device, 6_000);
  assert.equal(watchdog.timeoutMs, 6_000);
  await waitUntil('opening pets', () => standIn.pets() === 1);
  watchdog.pet();
  watchdog.pet();
  await waitUntil('two pets more', () => standIn.pets() === 3);
  assert.equal(standIn.disarms(), 0);
  watchdog.disarm();
  watchdog.disarm();
  await waitUntil('disarmed', () => standIn.disarms() === 1);
  assert.equal(standIn.seen.at(-1)?.byte, 'V'.charCodeAt(0));
  refuses('conflict', /was closed/, () => watchdog.pet());
});

test('what the device makes of the wish is what counts', async () => {
  using folder = createFolder();
  using standIn = await startStandIn(folder.path, { minSeconds: 10 });
  assert.equal(openWatchdog(standIn.device, 6_000).timeoutMs, 10_000);
  assert.equal(standIn.disarms(), 0);
});

test('a device that is not there, is none, is dead or says nothing is refused with its name', () => {
  using folder = createFolder();
  const device = join(folder.path, 'watchdog0');
  refuses('missing', /watchdog0 is not there/, () => openWatchdog(device, 6_000));
  writeFileSync(device, '');
  refuses('unsupported', /neither a character device nor a FIFO/, () => openWatchdog(device, 6_000));
  const dead = join(folder.path, 'dead');
  spawnSync('mkfifo', [dead]);
  refuses('unavailable', /opening watchdog .*dead failed/, () => openWatchdog(dead, 6_000));
});

test('a watchdog that dies makes the next pet fail instead of pretending', async () => {
  using folder = createFolder();
  const standIn = await startStandIn(folder.path);
  const watchdog = openWatchdog(standIn.device, 6_000);
  standIn[Symbol.dispose]();
  await waitUntil('the pet fails', () => {
    try {
      watchdog.pet();
      return false;
    } catch (error) {
      return error instanceof AppError && error.kind === 'unavailable';
    }
  });
});

test('a stand-in that never says its timeout is refused, and disarmed unless guests depend on it', async () => {
  using folder = createFolder();
  using standIn = await startStandIn(folder.path);
  const mute = join(folder.path, 'mute');
  spawnSync('ln', [standIn.device, mute]);
  mkdirSync(`${mute}.d`);
  refuses('timeout', /did not say its timeout/, () => openWatchdog(mute, 6_000, { whenRefused: 'keep-armed' }));
  assert.equal(standIn.disarms(), 0);
  refuses('timeout', /did not say its timeout/, () => openWatchdog(mute, 6_000));
  await waitUntil('disarmed', () => standIn.disarms() === 1);
});

test('a character device that is no watchdog is refused by its ioctl', () => {
  // ENOTTY from the real system call: the native path is the one that answers.
  refuses('unsupported', /errno 25/, () => openWatchdog('/dev/null', 6_000));
});

const real = process.env['HOLDFAST_TEST_WATCHDOG'];
const skip =
  real === undefined ? 'set HOLDFAST_TEST_WATCHDOG=/dev/watchdogN to try a real device (it is armed for a moment)' : false;

test('a real watchdog takes a timeout, is petted and is disarmed', { skip }, () => {
  const watchdog = openWatchdog(real ?? '', 30_000);
  try {
    assert.ok(watchdog.timeoutMs > 0);
    watchdog.pet();
  } finally {
    watchdog.disarm();
  }
});
