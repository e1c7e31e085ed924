import { strict as assert } from 'node:assert';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { followGuard, type GuardWatch } from '#programs/agent/guard-watch.ts';
import { type GuardLocalState, writeGuardState } from '#programs/local-state.ts';

const serving: GuardLocalState = {
  bootId: 'b1',
  pid: 7,
  phase: 'serving',
  epoch: 3,
  sinceBootMs: 1_200,
  thawedBootMs: 900,
  because: 'granted',
  watchdog: { device: '/dev/watchdog0', timeoutMs: 6_000, wantedMs: 6_000 },
  problems: [],
};

/** Writes each state in turn and waits until the watch has it. */
async function follow(t: TestContext, states: GuardLocalState[]): Promise<{ watch: GuardWatch; rang: string[] }> {
  const runDir = mkdtempSync(join(tmpdir(), 'holdfast-run-'));
  const stop = new AbortController();
  t.after(() => {
    stop.abort();
    rmSync(runDir, { recursive: true });
  });
  const rang: string[] = [];
  const watch = followGuard({
    runDir,
    onChange: ({ phase }) => rang.push(phase),
    onThaw: () => rang.push('thaw'),
    onClear: () => rang.push('clear'),
    onTrouble: (text) => rang.push(text),
  });
  void watch.run(stop.signal);
  for (const state of states) {
    writeGuardState(runDir, state);
    for (let tries = 0; watch.state()?.phase !== state.phase; tries += 1) {
      assert(tries < 200, `the watch never saw ${state.phase}`);
      await pause(20);
    }
  }
  return { watch, rang };
}

test('under a disarmed guard no guest is started, and nothing is cut or set right', async (t) => {
  const disarmed: GuardLocalState = {
    ...serving,
    phase: 'disarmed',
    watchdog: { device: '/dev/watchdog0', timeoutMs: null, wantedMs: 6_000 },
  };
  const { watch, rang } = await follow(t, [serving, disarmed]);
  assert.equal(watch.epoch(), null);
  assert.deepEqual(rang, ['serving', 'disarmed']);
});

test('armed again, guests are started once the guard serves', async (t) => {
  const { watch, rang } = await follow(t, [
    { ...serving, phase: 'disarmed' },
    { ...serving, phase: 'arming' },
  ]);
  assert.equal(watch.epoch(), null);
  assert.deepEqual(rang, ['disarmed', 'arming']);
  assert.equal((await follow(t, [{ ...serving, phase: 'arming' }, serving])).watch.epoch(), 3);
});

test('a lost permit cuts the ports of what is left', async (t) => {
  const { watch, rang } = await follow(t, [serving, { ...serving, phase: 'clearing', epoch: null, thawedBootMs: null }]);
  assert.equal(watch.epoch(), null);
  assert.deepEqual(rang, ['serving', 'clearing', 'clear']);
});
