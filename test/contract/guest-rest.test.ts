import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { guestRunPaths } from '#core/guest/guest-paths.ts';
import { createGuestRests, type RestTimes } from '#programs/guest-rest.ts';
import { listenAsAgent } from './checker/agent-stand-in.ts';
import { until } from './checker/until.ts';

const vmid = 100;
const refusing = (line: string): string =>
  line.includes('ping') ? '{"return": {}}' : '{"error": {"desc": "a file system is busy"}}';

/** A guest whose agent answers by `answer`; without one there is none in it. */
async function makeGuest(t: TestContext, answer: ((line: string) => string) | null, change: Partial<RestTimes> = {}) {
  const run = mkdtempSync(join(tmpdir(), 'hf-rest-'));
  t.after(() => rmSync(run, { recursive: true, force: true }));
  const { folder, guestAgent } = guestRunPaths(run, vmid);
  mkdirSync(folder, { recursive: true });
  const logged: string[] = [];
  const { heard } = answer === null ? { heard: [] } : await listenAsAgent(t, guestAgent, answer);
  const times = { freezeMs: 2_000, restMs: 20_000, thawMs: 2_000, retryMs: 20, retryMaxMs: 40, ...change };
  const make = () => createGuestRests({ run, log: (text) => void logged.push(text), times });
  const commands = (): string[] => heard.flatMap((line) => /fsfreeze-(freeze|thaw)/.exec(line)?.[1] ?? []);
  return { rests: make(), make, commands, logged, folder, mark: join(folder, 'at-rest') };
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
  const { rests, commands } = await makeGuest(t, () => '{"return": 2}', { restMs: 50 });
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

test('a guest that does not answer when it is told to go on is told again until it does, and not brought to rest meanwhile', async (t) => {
  let isHung = false;
  const answer = (line: string): string => (isHung && line.includes('thaw') ? '' : '{"return": 2}');
  const { rests, make, commands, logged, mark } = await makeGuest(t, answer, { thawMs: 100 });
  isHung = true;
  assert.deepEqual(await rests.hold(vmid, async () => 7), { result: 7, isRested: true, because: 'at rest' });
  assert.match(rests.whyHeld(vmid) ?? '', /may stand still: no agent in the guest answered within 100 ms/);
  assert.match(logged[0] ?? '', /^guest 100: its file systems may stand still/);
  await until('it is told again', 5_000, () => commands().filter((word) => word === 'thaw').length > 2);
  const meanwhile = await rests.hold(vmid, async () => 8);
  assert.deepEqual([meanwhile.result, meanwhile.isRested], [8, false]);
  assert.match(meanwhile.because, /may stand still/);
  assert.equal(commands().filter((word) => word === 'freeze').length, 1);
  assert.ok(existsSync(mark), 'an agent that dies now must be followed by one that goes on telling');
  const next = make();
  await next.releaseLeft(vmid);
  assert.match(next.whyHeld(vmid) ?? '', /may stand still/);
  isHung = false;
  await until('it goes on', 5_000, () => rests.whyHeld(vmid) === null && next.whyHeld(vmid) === null);
  assert.ok(!existsSync(mark));
  assert.match(logged.at(-1) ?? '', /its file systems go on, \d+ s late/);
  assert.equal((await rests.hold(vmid, async () => 9)).isRested, true);
});

test('a guest that comes to rest after everybody stopped waiting for it is let go all the same', async (t) => {
  let isHung = true;
  const answer = (line: string): string => (isHung && !line.includes('ping') ? '' : '{"return": 2}');
  const { rests, commands, mark } = await makeGuest(t, answer, { freezeMs: 200, thawMs: 100 });
  const outcome = await rests.hold(vmid, async () => 7);
  assert.deepEqual([outcome.result, outcome.isRested], [7, false]);
  assert.match(outcome.because, /no agent in the guest answered within 200 ms/);
  assert.match(rests.whyHeld(vmid) ?? '', /may stand still/);
  isHung = false;
  await until('it goes on', 5_000, () => rests.whyHeld(vmid) === null && !existsSync(mark));
  assert.equal(commands()[0], 'freeze');
  assert.equal(commands().at(-1), 'thaw');
});

test('a guest whose process has ended is not told any more', async (t) => {
  const { rests, folder, commands } = await makeGuest(t, (line) => (line.includes('thaw') ? '' : '{"return": 2}'), {
    thawMs: 100,
  });
  await rests.hold(vmid, async () => 7);
  assert.notEqual(rests.whyHeld(vmid), null);
  rmSync(folder, { recursive: true });
  assert.equal(rests.whyHeld(vmid), null);
  const told = commands().length;
  await delay(300);
  assert.ok(commands().length <= told + 1, 'one may have been on its way');
});
