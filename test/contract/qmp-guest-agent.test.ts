import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { listenAsAgent as standInForAgent } from './checker/agent-stand-in.ts';
import { freezeGuest, setGuestTime, thawGuest } from '#adapters/qmp/guest-agent.ts';

async function listenAsAgent(t: TestContext, answer: (command: string) => string): Promise<{ path: string; heard: string[] }> {
  const folder = await mkdtemp(join(tmpdir(), 'hf-qga-'));
  const path = join(folder, 'qga.sock');
  const { heard } = await standInForAgent(t, path, answer);
  t.after(() => rm(folder, { recursive: true, force: true }));
  return { path, heard };
}

test('the guest’s clock is set to the nanosecond asked for', async (t) => {
  const agent = await listenAsAgent(t, () => '{"return": {}}');
  assert.deepEqual(await setGuestTime(agent.path, 1_795_000_000_123), { kind: 'set' });
  assert.equal(agent.heard.at(-1), '{"execute":"guest-set-time","arguments":{"time":1795000000123000000}}');
});

test('a refusal of the agent is told, not thrown', async (t) => {
  const agent = await listenAsAgent(t, (command) =>
    command.includes('guest-ping') ? '{"return": {}}' : '{"error": {"class": "GenericError", "desc": "hwclock failed"}}',
  );
  const outcome = await setGuestTime(agent.path, 1);
  assert.deepEqual(outcome, { kind: 'not-set', because: 'the agent in the guest refused: hwclock failed' });
});

test('no channel is told, not thrown', async () => {
  const outcome = await setGuestTime('/nonexistent/qga.sock', 1, { deadlineMs: 200 });
  assert.equal(outcome.kind, 'not-set');
});

test('file systems are brought to rest and let go; who is not there, refuses or is slow is told, not thrown', async (t) => {
  const agent = await listenAsAgent(t, () => '{"return": 2}');
  assert.deepEqual(await freezeGuest(agent.path), { kind: 'frozen' });
  assert.equal(await thawGuest(agent.path), null);
  assert.deepEqual(
    agent.heard.filter((line) => line.includes('fsfreeze')),
    ['{"execute":"guest-fsfreeze-freeze"}', '{"execute":"guest-fsfreeze-thaw"}'],
  );
  const refusing = await listenAsAgent(t, (line) =>
    line.includes('ping') ? '{"return": {}}' : '{"error": {"desc": "a file system is busy"}}',
  );
  const refused = await freezeGuest(refusing.path);
  assert.match(refused.kind === 'not-frozen' ? refused.because : '', /a file system is busy/);
  assert.equal(refused.kind === 'not-frozen' && refused.asked, 'refused');
  const slow = await listenAsAgent(t, (line) => (line.includes('ping') ? '{"return": {}}' : ''));
  const late = await freezeGuest(slow.path, { deadlineMs: 200 });
  assert.match(late.kind === 'not-frozen' ? late.because : '', /200 ms/);
  assert.equal(late.kind === 'not-frozen' && late.asked, 'unanswered');
  assert.equal((await thawGuest(slow.path, { deadlineMs: 200 }))?.isRefusal, false);
  const none = await freezeGuest('/nonexistent/qga.sock');
  assert.equal(none.kind === 'not-frozen' && none.asked, 'not');
});
