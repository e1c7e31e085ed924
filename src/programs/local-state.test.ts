import { strict as assert } from 'node:assert';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { AppError } from '#base/error.ts';
import {
  followGuardState,
  readAgentAlive,
  readGuardState,
  readReleaseRequest,
  removeReleaseRequest,
  writeAgentAlive,
  writeGuardState,
  writeReleaseRequest,
  type GuardLocalState,
} from '#programs/local-state.ts';

const guard: GuardLocalState = {
  bootId: 'b1',
  pid: 7,
  phase: 'serving',
  epoch: 3,
  sinceBootMs: 1200,
  thawedBootMs: null,
  because: 'granted',
  watchdog: { device: '/dev/watchdog0', timeoutMs: 6000, wantedMs: 6000 },
  problems: [],
};

test('what one program writes the other reads back, and nothing else is left in the folder', (t) => {
  const run = mkdtempSync(join(tmpdir(), 'holdfast-run-'));
  t.after(() => rmSync(run, { recursive: true }));
  assert.equal(readGuardState(run), null);
  assert.equal(readReleaseRequest(run), null);
  writeGuardState(run, guard);
  writeAgentAlive(run, { atBootMs: 5, load: { guestsRunning: 2, memoryUsedMb: 100 } });
  writeReleaseRequest(run, { reason: 'shutdown', askedBootMs: 9 });
  assert.deepEqual(readGuardState(run), guard);
  assert.deepEqual(readAgentAlive(run), { atBootMs: 5, load: { guestsRunning: 2, memoryUsedMb: 100 } });
  assert.deepEqual(readReleaseRequest(run), { reason: 'shutdown', askedBootMs: 9 });
  assert.deepEqual(readdirSync(run).toSorted(), ['agent-alive.json', 'guard.json', 'release-request.json']);
  const disarmed: GuardLocalState = { ...guard, phase: 'disarmed', watchdog: { ...guard.watchdog, timeoutMs: null } };
  writeGuardState(run, disarmed);
  assert.deepEqual(readGuardState(run), disarmed);
  removeReleaseRequest(run);
  removeReleaseRequest(run);
  assert.equal(readReleaseRequest(run), null);
});

test('who follows a file sees each new one, its absence, and a bad one again and again', (t) => {
  const run = mkdtempSync(join(tmpdir(), 'holdfast-run-'));
  t.after(() => rmSync(run, { recursive: true }));
  const read = followGuardState(run);
  assert.equal(read(), null);
  for (const epoch of [3, 4, 5, 6]) {
    writeGuardState(run, { ...guard, epoch });
    const first = read();
    assert.equal(first?.epoch, epoch);
    assert.equal(read(), first, 'nothing is read again');
  }
  writeFileSync(join(run, 'guard.json'), '{}');
  for (const _look of [1, 2]) assert.throws(read, /guard.json: /);
  rmSync(join(run, 'guard.json'));
  assert.equal(read(), null);
});

test('a file of another shape is refused with its name', (t) => {
  const run = mkdtempSync(join(tmpdir(), 'holdfast-run-'));
  t.after(() => rmSync(run, { recursive: true }));
  for (const content of ['{', '{"atBootMs":"soon"}']) {
    writeFileSync(join(run, 'agent-alive.json'), content);
    assert.throws(
      () => readAgentAlive(run),
      (error) => error instanceof AppError && error.kind === 'invalid' && error.message.includes('agent-alive.json'),
    );
  }
});
