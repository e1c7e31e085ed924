import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { isAppError } from '#base/error.ts';
import { isPopulated } from '#lab/control-group.ts';
import { labContext, labDown, labStatus } from '#lab/lab.ts';
import { labPaths, nodePaths } from '#lab/lab-paths.ts';
import { requireLabSpec } from '#lab/lab-spec.ts';
import { eventually } from './lab-fixture.ts';

/** What a lab would leave behind on this host, by its name. */
function listTraces(name: string, group: string): string[] {
  const namespaces = existsSync('/run/netns') ? readdirSync('/run/netns').filter((entry) => entry.startsWith(`hf-${name}-`)) : [];
  const mounts = readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .filter((line) => line.includes(`/${name}/`) || line.includes(`hf-${name}-`));
  const folders = [group, labPaths(name).run, labPaths(name).state].filter((path) => existsSync(path));
  const processes = readdirSync('/proc').filter((pid) => /^\d+$/.test(pid) && readCommand(pid).includes(`/${name}/`));
  return [...namespaces, ...mounts, ...folders, ...processes.map((pid) => `process ${pid}: ${readCommand(pid)}`)];
}

function readCommand(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1').replaceAll('\0', ' ');
  } catch {
    return '';
  }
}

/** Brings a lab up in a process of its own, which is its owner; returns that process once the lab is up. */
async function startOwner(t: TestContext, name: string, extra: string): Promise<ReturnType<typeof spawn>> {
  const upModule = fileURLToPath(new URL('../../src/lab/lab-up.ts', import.meta.url));
  const source = `
    const { labUp } = await import(${JSON.stringify(upModule)});
    const services = [{ name: 'agent', argv: ['sleep', '1000'], restart: 'always', nice: 0, needsCluster: false }];
    await labUp({ name: ${JSON.stringify(name)}, nodes: 2, bmc: true, services, ttlMs: 120000, ${extra} });
    console.log('up');
    setInterval(() => {}, 1000);`;
  const owner = spawn(process.execPath, ['--input-type=module', '-e', source], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => owner.kill('SIGKILL'));
  await new Promise<void>((resolve, reject) => {
    owner.stdout.once('data', () => resolve());
    owner.once('exit', (code) => reject(new Error(`the owner ended with ${code}`)));
  });
  owner.removeAllListeners('exit');
  return owner;
}

test('a lab ends with its owner and leaves nothing', { timeout: 60_000 }, async (t) => {
  const name = `own${process.pid}`;
  t.after(() => labDown(name));
  const owner = await startOwner(t, name, 'ownerPid: process.pid');
  const group = requireLabSpec(name).cgroup;
  assert.ok(listTraces(name, group).length > 8, 'there is something to leave behind');
  owner.kill('SIGKILL');
  await eventually('nothing left', 15_000, () => listTraces(name, group).length === 0).catch((error: unknown) => {
    throw new Error(`left: ${listTraces(name, group).join('\n')}`, { cause: error });
  });
});

test(
  'a crashed room takes its nodes along, and both a new start and an end clean up after it',
  { timeout: 60_000 },
  async (t) => {
    const name = `crash${process.pid}`;
    t.after(() => labDown(name));
    await startOwner(t, name, '');
    const group = requireLabSpec(name).cgroup;
    await assert.rejects(startOwner(t, name, ''), 'a lab that is up is not replaced');
    process.kill((await labStatus(name)).pid, 'SIGKILL');
    await eventually('nodes dead', 5_000, () => !isPopulated(group));
    await assert.rejects(labStatus(name), (error) => isAppError(error, 'unavailable'));
    writeFileSync(join(nodePaths(name, 'n1').data, 'old'), 'of the crashed lab');

    await startOwner(t, name, '');
    assert.equal(existsSync(join(nodePaths(name, 'n1').data, 'old')), false);
    process.kill((await labStatus(name)).pid, 'SIGKILL');
    assert.equal(labContext(name).nodes.length, 2);
    assert.equal(await labDown(name), true);
    assert.deepEqual(listTraces(name, group), []);
    assert.equal(await labDown(name), false);
  },
);
