import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { guestRunPaths } from '#core/guest/guest-paths.ts';
import { readBitmaps } from '#programs/replication/fleece.ts';
import { startBackupPlace, type BackupPlace } from './backup-command-parts.ts';
import { listenAsAgent } from './checker/agent-stand-in.ts';
import { backupOrder, backupsOf, checkBackup, readGuestBlob } from './checker/backup-rig.ts';
import { buildRig, checkReplica, createProbeDisks, runProbeOn, type Rig } from './checker/node-rig.ts';
import type { ProbeGuest } from './checker/probe-guest.ts';
import { until } from './checker/until.ts';

/** Backups of a running guest that replication copies at the same time, to a real backup server. */
const vmid = 100;
const never = new AbortController().signal;
let place: BackupPlace;
let rig: Rig;
let guest: ProbeGuest;

before(async () => {
  place = await startBackupPlace();
  rig = await buildRig(['n1', 'n2']);
  await createProbeDisks(rig, 'n1', vmid);
  guest = await runProbeOn(rig, 'n1', { vmid, generation: 1, intervalMs: 20 });
  await guest.reach(20);
  await rig.node('n1').replication.syncNow(vmid);
});

after(async () => {
  await guest[Symbol.asyncDispose]();
  await rig[Symbol.asyncDispose]();
  await place[Symbol.asyncDispose]();
});

/** Backups are told apart by their second. */
async function make(change: Parameters<typeof backupOrder>[1] = {}) {
  await delay(1_000 - (Date.now() % 1_000));
  return await backupsOf(rig, 'n1', guest).make(backupOrder(place, change), never);
}

async function mustBeClean(): Promise<void> {
  const present = await readBitmaps(guest.qmp);
  assert.deepEqual(
    [...present.keys()].filter((name) => /^(bak-|cbw|acc|scr)/.test(name)),
    [],
    'nothing of a backup stays in QEMU',
  );
  const left = [...(present.get('act-disk0')?.keys() ?? [])].filter((name) => /^(bcy|cyc)/.test(name));
  assert.deepEqual(left, []);
  assert.equal(guest.report()?.ioErrors, 0);
}

test('the first backup reads all, the next only what changed, while points for another node come and go', async () => {
  const first = await make({ notes: 'the first' });
  assert.equal(first.figures.kind, 'whole');
  const one = await checkBackup(place, vmid);
  assert.ok(one.consistent && one.counter >= 20, one.detail);
  assert.deepEqual((await readGuestBlob(place, vmid))['config'], backupOrder(place).guest.config);

  let isDone = false;
  const cycles = (async () => {
    let count = 0;
    for (; !isDone; count += 1) await rig.node('n1').replication.syncNow(vmid, 'n2');
    return count;
  })();
  await guest.reach((guest.report()?.counter ?? 0) + 20);
  // So slow that several points for the other node fit in.
  const second = await make({ rateBytesPerSecond: 1 << 20 });
  isDone = true;
  assert.ok((await cycles) > 1);
  assert.equal(second.figures.kind, 'delta', second.figures.because);
  const { sentWireBytes, tookMs } = second.figures;
  assert.ok(sentWireBytes / (tookMs / 1_000) <= 1 << 20, `${sentWireBytes} bytes in ${tookMs} ms`);
  const two = await checkBackup(place, vmid);
  assert.ok(two.consistent && two.counter > one.counter, two.detail);
  const copy = await checkReplica(rig, 'n2', vmid);
  assert.ok(copy.consistent, copy.detail);
  await mustBeClean();

  await guest.qmp.execute('stop');
  await make();
  const nothing = await make();
  await guest.resume();
  assert.equal(nothing.figures.kind, 'delta');
  assert.deepEqual([nothing.figures.readBytes, nothing.figures.sentChunks], [0, 0]);
});

test('a guest whose agent answers is at rest at its point; one that falls silent then is backed up, and told until it goes on', async (t) => {
  let isHung = true;
  const { guestAgent } = guestRunPaths(rig.node('n1').run, vmid);
  const { heard } = await listenAsAgent(t, guestAgent, (line) => (isHung && line.includes('thaw') ? '' : '{"return": 2}'));
  const commands = (): string[] => heard.flatMap((line) => /fsfreeze-(freeze|thaw)/.exec(line)?.[1] ?? []);
  await delay(1_000 - (Date.now() % 1_000));
  const backups = backupsOf(rig, 'n1', guest);
  const silent = await backups.make(backupOrder(place, { freeze: true }), never);
  assert.equal(silent.figures.consistency, 'frozen');
  assert.match(silent.figures.because, /its file systems may stand still: no agent in the guest answered within/);
  assert.equal((await readGuestBlob(place, vmid))['consistency'], 'frozen');
  const asked = commands().length;
  isHung = false;
  await until(
    'it is told once more',
    30_000,
    () => commands().length > asked && !existsSync(join(dirname(guestAgent), 'at-rest')),
  );
  await delay(1_000 - (Date.now() % 1_000));
  const well = await backups.make(backupOrder(place, { freeze: true }), never);
  assert.deepEqual(
    [well.figures.consistency, well.figures.because],
    ['frozen', 'its bitmap counts from the newest backup there'],
  );
  assert.equal(commands().filter((word) => word === 'freeze').length, 2);
  await mustBeClean();
});

test('another agent takes over in the middle of a backup: the next one loses nothing', async () => {
  const cut = new AbortController();
  const order = backupOrder(place, {
    rateBytesPerSecond: 1 << 16,
    onProgress: (_text, progress) => {
      if (progress !== null && progress.doneBytes > 0) cut.abort(new Error('dies'));
    },
  });
  const dying = backupsOf(rig, 'n1', guest);
  await guest.reach((guest.report()?.counter ?? 0) + 20);
  await delay(1_000 - (Date.now() % 1_000));
  const original = guest.qmp.execute.bind(guest.qmp);
  const made = dying.make(order, cut.signal).catch(() => {});
  // From the abort on nothing that the dying one wants is done any more.
  cut.signal.addEventListener('abort', () => {
    guest.qmp.execute = (() => Promise.reject(new Error('dead'))) as typeof original;
  });
  await made;
  guest.qmp.execute = original;
  assert.ok((await readBitmaps(guest.qmp)).has('bak-cbw-disk0'), 'the filter was left');
  await backupsOf(rig, 'n1', guest).recover();
  await mustBeClean();
  const next = await make();
  assert.equal(next.figures.kind, 'delta', next.figures.because);
  const verdict = await checkBackup(place, vmid);
  assert.ok(verdict.consistent, verdict.detail);
});
