import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { limits } from '#base/limits.ts';
import { isPopulated } from '#lab/control-group.ts';
import { plug, runInClient } from '#lab/lab.ts';
import { labPaths } from '#lab/lab-paths.ts';
import { requireLabSpec } from '#lab/lab-spec.ts';
import { eventually, stubService, type TestLab, withLab } from '../lab/lab-fixture.ts';

const callProgram = fileURLToPath(new URL('bmc-call.ts', import.meta.url));

type CallResult = { ok: boolean; power: 'on' | 'off' | null; kind?: string; message?: string; tookMs: number };

const passwordFile = (lab: TestLab) => join(labPaths(lab.name).pki, 'bmc-n1');

async function call(lab: TestLab, action: 'status' | 'on' | 'off', overrides: Record<string, unknown> = {}): Promise<CallResult> {
  const options = {
    address: '10.77.0.11',
    port: 623,
    user: 'holdfast',
    passwordFile: passwordFile(lab),
    cipherSuite: 3,
    ...overrides,
  };
  const argv = [process.execPath, callProgram, JSON.stringify(options), action];
  const { code, stdout, stderr } = await runInClient(lab.name, argv);
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout) as CallResult;
}

const withController = (t: TestContext, use: (lab: TestLab) => Promise<void>) =>
  withLab(t, { nodes: 1, bmc: true, services: [stubService('agent')], bootDelayMs: 500 }, use);

test('a controller tells the power, takes it from the whole node and gives it back', { timeout: 60_000 }, (t) =>
  withController(t, async (lab) => {
    const group = join(requireLabSpec(lab.name).cgroup, 'n1');
    const first = await call(lab, 'status');
    assert.deepEqual([first.ok, first.power], [true, 'on'], JSON.stringify(first));
    assert.ok(isPopulated(group));

    const off = await call(lab, 'off');
    assert.equal(off.ok, true, JSON.stringify(off));
    await eventually('node empty', 5_000, () => !isPopulated(group));
    const second = await call(lab, 'status');
    assert.equal(second.power, 'off', JSON.stringify(second));
    const loss = await lab.waitForEvent('loss', (event) => event.event === 'power-off');
    assert.equal('by' in loss && loss.by, 'bmc');

    assert.equal((await call(lab, 'on')).ok, true);
    await eventually('node populated', 10_000, () => isPopulated(group));
    assert.equal((await call(lab, 'status')).power, 'on');
    t.diagnostic(`status ${first.tookMs} ms, off ${off.tookMs} ms, second status ${second.tookMs} ms`);
  }),
);

test('a wrong password and an unknown user are denied, and no text shows the secret', { timeout: 60_000 }, (t) =>
  withController(t, async (lab) => {
    const secret = 'not-the-password';
    const wrong = join(labPaths(lab.name).pki, 'wrong');
    writeFileSync(wrong, `${secret}\n`, { mode: 0o600 });
    const refused = await call(lab, 'off', { passwordFile: wrong });
    assert.deepEqual([refused.ok, refused.kind], [false, 'denied'], JSON.stringify(refused));
    assert.ok(!JSON.stringify(refused).includes(secret));
    assert.equal((await call(lab, 'status', { user: 'nobody' })).kind, 'denied');
    assert.equal((await call(lab, 'status', { passwordFile: '/nowhere/bmc' })).kind, 'missing');
    assert.equal((await call(lab, 'status')).power, 'on', 'a refused order changes nothing');
  }),
);

test('no process shows the password in its arguments or environment while a call runs', { timeout: 60_000 }, (t) =>
  withController(t, async (lab) => {
    const secret = readFileSync(passwordFile(lab), 'utf8').trim();
    const seen = new Set<string>();
    let running = true;
    const calls = (async () => {
      for (let round = 0; round < 3; round += 1) await call(lab, 'status');
      running = false;
    })();
    let looks = 0;
    while (running) {
      for (const text of readProcesses()) if (text.includes('ipmitool') || text.includes(secret)) seen.add(text);
      looks += 1;
      await new Promise((resolve) => setImmediate(resolve));
    }
    await calls;
    assert.ok(
      [...seen].some((text) => text.includes('chassis\0power')),
      `${looks} looks never saw ipmitool itself: the test proves nothing`,
    );
    assert.deepEqual(
      [...seen].filter((text) => text.includes(secret)),
      [],
    );
  }),
);

test('a controller without power is a trouble within the limit of one call, not an answer', { timeout: 60_000 }, (t) =>
  withController(t, async (lab) => {
    await plug(lab.name, 'n1', 'off');
    const dead = await call(lab, 'status');
    assert.equal(dead.ok, false);
    assert.ok(dead.kind === 'timeout' || dead.kind === 'unavailable', JSON.stringify(dead));
    assert.ok(dead.tookMs < limits.bmcCallMs + 500, `${dead.tookMs} ms`);

    await plug(lab.name, 'n1', 'on');
    await plug(lab.name, 'n1', 'off', { keepBmc: true });
    const alive = await call(lab, 'status');
    assert.equal(alive.power, 'off', JSON.stringify(alive));
    t.diagnostic(`dead controller: ${dead.kind} after ${dead.tookMs} ms`);
  }),
);

/** Arguments and environment of every process on this host. */
function readProcesses(): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'latin1') + readFileSync(`/proc/${pid}/environ`, 'latin1');
      } catch {
        return ''; // it ended between the listing and the look
      }
    });
}
