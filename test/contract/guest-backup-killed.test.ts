import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { createClock } from '#adapters/clock/boot-clock.ts';
import type { GuestBackupRecord } from '#core/guest-backup/records.ts';
import { keys } from '#core/ha/keys.ts';
import type { RequestState } from '#core/ha/requests.ts';
import type { BackupDesk } from '#programs/agent/backup-desk.ts';
import { readBitmaps } from '#programs/replication/fleece.ts';
import { startBackupPlace, type BackupPlace } from './backup-command-parts.ts';
import { buildAgentRig, type AgentRig, type RigAgent } from './checker/agent-rig.ts';
import { answered, ask, backup, put, read, serveBackups, vault } from './checker/backup-agent.ts';
import type { BackupProcessOrder } from './checker/backup-process.ts';
import { goesOn, runOnN1, vmid } from './checker/moved-guest.ts';
import { readNumbers } from './checker/number-guest.ts';
import { until } from './checker/until.ts';

let place: BackupPlace;
before(async () => {
  place = await startBackupPlace();
});
after(async () => {
  await place[Symbol.asyncDispose]();
});

/** What the process says when it is killed: before, or while, the guest stands still for the point; while it is read; while the server finishes. */
const moments = ['waiting for its turn to take a point', 'reading', 'the backup server makes it durable'];

test('an agent that is killed in a backup leaves nothing behind that its successor does not clear; the next backup loses nothing', async (t) => {
  const rig = await buildAgentRig(t, ['n1']);
  let serving = serve(rig);
  await runOnN1(rig);
  await put(rig, keys.backupTarget('vault'), vault(place));
  const whole = await answered(rig, await ask(rig, backup));
  assert.equal(whole.state, 'done', JSON.stringify(whole));

  for (const moment of moments) {
    await goesOn(rig, 'n1', (await rig.look('n1', vmid)).newest);
    serving.stop.abort();
    const [{ pid } = { pid: 0 }] = serving.agent.loop.running();
    await serving.agent.crash();
    await killIn(rig, pid, moment);
    // The request of the agent that died is taken up again by the next one.
    const progress = { text: '', doneBytes: null, totalBytes: null };
    const begun: { id: string; state: RequestState } = { id: `begun-${moment}`, state: { state: 'running', progress } };
    const id = await ask(rig, backup, begun);
    serving = serve(rig);
    const again = await answered(rig, id);
    assert.equal(again.state, 'done', JSON.stringify(again));
    const last = (await read<GuestBackupRecord>(rig, keys.guestBackup(vmid, 'vault')))?.last;
    assert.equal(last?.figures.kind, 'delta', `${moment}: ${last?.figures.because}`);
    await mustBeClean(rig, serving.agent);
    const lies = await rig.look('n1', vmid);
    const backedUp = await restore(`disk-${moments.indexOf(moment)}`);
    assert.ok(backedUp.consistent && backedUp.newest > 5 && backedUp.newest <= lies.newest, JSON.stringify([backedUp, lies]));
    await goesOn(rig, 'n1', lies.newest);
  }
  serving.stop.abort();
});

type Serving = { agent: RigAgent; stop: AbortController };

/** An agent that takes over what backups left in guests, as the real one does. */
function serve(rig: AgentRig): Serving {
  let desk: BackupDesk | null = null;
  const agent = rig.startAgent('n1', (edge) => ({
    ...edge,
    replication: {
      ...edge.replication,
      startGuest(guest) {
        desk?.takeOver(guest);
        edge.replication.startGuest(guest);
      },
    },
  }));
  const served = serveBackups(rig, agent, createClock());
  desk = served.desk;
  return { agent, stop: served.stop };
}

/** Begins a backup in a process of its own and kills it when it says `moment`. */
async function killIn(rig: AgentRig, pid: number, moment: string): Promise<void> {
  const { directory, run } = rig.node('n1');
  const { name, config, generation } = await rig.record(vmid);
  const order: BackupProcessOrder = {
    directory,
    run,
    guest: { vmid, generation, pid, name, config },
    place: { port: place.port, fingerprint: place.fingerprint },
    rateBytesPerSecond: moment === 'reading' ? 16 : null,
  };
  const file = join(place.folder, 'order.json');
  writeFileSync(file, JSON.stringify(order));
  const main = join(import.meta.dirname, 'checker/backup-process.ts');
  const child = spawn(process.execPath, [main, file], { stdio: ['ignore', 'pipe', 'inherit'] });
  const lines: string[] = [];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    lines.push(...text.split('\n'));
    if (lines.includes(moment)) child.kill('SIGKILL');
  });
  await new Promise((resolve) => void child.once('close', resolve));
  assert.equal(child.signalCode, 'SIGKILL', `it never came to "${moment}": ${lines.join(' | ')}`);
}

/** Nothing of a backup stays in QEMU, under the scratch folder or on the server. */
async function mustBeClean(rig: AgentRig, { loop }: RigAgent): Promise<void> {
  const { qmp } = loop.running()[0]!;
  const present = await readBitmaps(qmp);
  assert.deepEqual(
    [...present.keys()].filter((name) => /^(bak-|cbw|acc|scr)/.test(name)),
    [],
  );
  assert.deepEqual(
    [...(present.get('act-disk0')?.keys() ?? [])].filter((name) => name.startsWith('bcy')),
    [],
  );
  assert.deepEqual(await qmp.execute('query-block-exports'), []);
  assert.deepEqual(await qmp.execute('query-jobs'), []);
  const scratch = join(rig.node('n1').directory, 'scratch', `${vmid}-backup`);
  assert.deepEqual(existsSync(scratch) ? readdirSync(scratch) : [], []);
  const { out } = await place.run(['list', '--json']);
  const finished = (JSON.parse(out) as Record<string, unknown>[]).map((item) => String(item['backup-time'])).toSorted();
  const group = join(place.store, 'vm', String(vmid));
  await until('the server has forgotten what was not finished', 20_000, () => {
    const folders = readdirSync(group, { withFileTypes: true }).filter((entry) => entry.isDirectory());
    const times = folders.map(({ name }) => String(Date.parse(name) / 1_000)).toSorted();
    return JSON.stringify(times) === JSON.stringify(finished);
  });
}

async function restore(name: string): Promise<ReturnType<typeof readNumbers>> {
  const file = join(place.folder, name);
  const done = await place.run(['restore', `vm/${vmid}`, 'drive-disk0.img', file]);
  assert.equal(done.code, 0, done.err);
  return readNumbers(file);
}
