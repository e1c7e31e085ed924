import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { guestRunPaths } from '#core/guest/guest-paths.ts';
import { createGuestRests } from '#programs/guest-rest.ts';
import { listenAsAgent } from './checker/agent-stand-in.ts';
import { until } from './checker/until.ts';

const vmid = 100;
const refusing = (line: string): string =>
  line.includes('ping') ? '{"return": {}}' : '{"error": {"desc": "a file system is busy"}}';

/** A guest whose agent answers by `answer`; without one there is none in it. */
async function makeGuest(t: TestContext, answer: ((line: string) => string) | null, restMs = 20_000) {
  const run = mkdtempSync(join(tmpdir(), 'hf-rest-'));
  t.after(() => rmSync(run, { recursive: true, force: true }));
  const { folder, guestAgent } = guestRunPaths(run, vmid);
  mkdirSync(folder, { recursive: true });
  const logged: string[] = [];
  const { heard } = answer === null ? { heard: [] } : await listenAsAgent(t, guestAgent, answer);
  const rests = createGuestRests({ run, log: (text) => void logged.push(text), times: { freezeMs: 2_000, restMs } });
  const commands = (): string[] => heard.flatMap((line) => /fsfreeze-(freeze|thaw)/.exec(line)?.[1] ?? []);
  return { rests, commands, logged, mark: join(folder, 'at-rest') };
}

test('the guest is at rest while the work is done, marked as such, and goes on after it', async (t) => {
  const { rests, commands, mark } = await makeGuest(t, () => '{"return": 2}');
  const outcome = await rests.hold(vmid, async () => {
    assert.deepEqual(commands(), ['freeze']);
    assert.ok(existsSync(mark));
    return 7;
  });
  assert.deepEqual(outcome, { result: 7, isRested: true, because: 'at rest' });
  assert.deepEqual(commands(), ['freeze', 'thaw']);
  assert.ok(!existsSync(mark));
});

test('work that takes too long goes on without the guest, and is told as not at rest', async (t) => {
  const { rests, commands } = await makeGuest(t, () => '{"return": 2}', 50);
  const outcome = await rests.hold(vmid, async () => {
    await until('the guest goes on meanwhile', 5_000, () => commands().includes('thaw'));
  });
  assert.equal(outcome.isRested, false);
  assert.match(outcome.because, /not done within 50 ms/);
  assert.deepEqual(commands(), ['freeze', 'thaw']);
});

test('a refusal or a missing agent is told, the work is done all the same, and the guest is let go in any case', async (t) => {
  const refused = await makeGuest(t, refusing);
  const outcome = await refused.rests.hold(vmid, async () => 'point');
  assert.deepEqual([outcome.result, outcome.isRested], ['point', false]);
  assert.match(outcome.because, /a file system is busy/);
  assert.deepEqual(refused.commands(), ['freeze', 'thaw']);
  const none = await makeGuest(t, null);
  assert.equal((await none.rests.hold(vmid, async () => 'point')).isRested, false);
  assert.deepEqual(none.logged, []);
});

test('work that fails lets the guest go; a second caller waits for the first', async (t) => {
  const { rests, commands } = await makeGuest(t, () => '{"return": 2}');
  const order: string[] = [];
  const first = rests.hold(vmid, async () => {
    order.push('first');
    throw new Error('no point');
  });
  const second = rests.hold(vmid, async () => order.push('second'));
  await assert.rejects(first, /no point/);
  assert.equal((await second).isRested, true);
  assert.deepEqual(order, ['first', 'second']);
  assert.deepEqual(commands(), ['freeze', 'thaw', 'freeze', 'thaw']);
});

test('what an agent that died has held is let go by the next one, and nothing else is', async (t) => {
  const { rests, commands, mark } = await makeGuest(t, () => '{"return": 2}');
  await rests.releaseLeft(vmid);
  assert.deepEqual(commands(), []);
  writeFileSync(mark, '');
  await rests.releaseLeft(vmid);
  assert.deepEqual(commands(), ['thaw']);
  assert.ok(!existsSync(mark));
});
