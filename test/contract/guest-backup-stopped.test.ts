import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { GuestBackupRecord } from '#core/guest-backup/records.ts';
import { keys } from '#core/ha/keys.ts';
import type { RequestRecord } from '#core/ha/requests.ts';
import { startBackupPlace, type BackupPlace } from './backup-command-parts.ts';
import { buildAgentRig } from './checker/agent-rig.ts';
import { answered, ask, backup, put, read, serveRequests, vault, want } from './checker/backup-agent.ts';
import { goesOn, runOnN1, vmid } from './checker/moved-guest.ts';
import { until } from './checker/until.ts';

let place: BackupPlace;
before(async () => {
  place = await startBackupPlace();
});
after(async () => {
  await place[Symbol.asyncDispose]();
});

test('a stopped guest is backed up as it lies there; whoever wants to start it comes first', async (t) => {
  const rig = await buildAgentRig(t, ['n1']);
  const agent = rig.startAgent('n1');
  await runOnN1(rig);
  const stop = serveRequests(rig, agent);
  t.after(() => stop.abort());
  await put(rig, keys.backupTarget('vault'), vault(place));
  await want(rig, 'stopped', 'stop');
  const lies = await rig.look('n1', vmid);

  const done = await answered(rig, await ask(rig, backup));
  assert.match(JSON.stringify(done), /is complete.*as it had left them/);
  const first = await read<GuestBackupRecord>(rig, keys.guestBackup(vmid, 'vault'));
  assert.deepEqual([first?.last?.figures.kind, first?.last?.figures.consistency], ['whole', 'stopped']);
  const restore = {
    kind: 'guest-restore',
    target: 'vault',
    from: { vmid, atSeconds: null },
    bridge: null,
    keepMacs: false,
  } as const;
  const made = await answered(rig, await ask(rig, { ...restore, vmid: 201, name: 'again', want: 'stopped' }));
  assert.equal(made.state, 'done', JSON.stringify(made));
  assert.equal((await rig.look('n1', 201)).sha256, lies.sha256);
  await answered(rig, await ask(rig, backup));
  const second = await read<GuestBackupRecord>(rig, keys.guestBackup(vmid, 'vault'));
  assert.deepEqual([second?.last?.figures.kind, second?.last?.figures.sentChunks], ['compare', 0]);

  // With another key everything is sent again, and so slowly that it would take minutes.
  const keyFile = join(place.folder, 'apart-key');
  const key = await place.run(['key', 'create', keyFile, '--kdf', 'none']);
  assert.equal(key.code, 0, key.err);
  await put(rig, keys.backupTarget('apart'), { ...vault(place), id: 'apart', keyFile });
  await delay(1_000);
  const slow = await ask(rig, { ...backup, target: 'apart', rateBytesPerSecond: 2 });
  await until('the slow backup is under way', 20_000, async () => {
    const now = await read<RequestRecord>(rig, keys.request(slow));
    assert.notEqual(now?.state, 'failed', JSON.stringify(now));
    return now?.state === 'running' && /stopped guest/.test(now.progress.text);
  });
  const startedMs = performance.now();
  await want(rig, 'started', 'run');
  await goesOn(rig, 'n1', lies.newest);
  t.diagnostic(`the guest wrote again ${Math.round(performance.now() - startedMs)} ms after it was wanted`);
  const given = await answered(rig, slow);
  assert.match(JSON.stringify(given), /is wanted meanwhile: ordered to run/);
  const told = await read<GuestBackupRecord>(rig, keys.guestBackup(vmid, 'apart'));
  assert.match(told?.failed?.because ?? '', /is wanted meanwhile/);
});
