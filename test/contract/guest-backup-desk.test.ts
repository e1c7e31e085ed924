import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { GuestBackupRecord, KeptDisksRecord } from '#core/guest-backup/records.ts';
import { keys } from '#core/ha/keys.ts';
import type { RequestOrder, RequestState } from '#core/ha/requests.ts';
import { startBackupPlace, type BackupPlace } from './backup-command-parts.ts';
import { buildAgentRig, type AgentRig } from './checker/agent-rig.ts';
import { answered, ask, backup, put, read, serveRequests, vault, want } from './checker/backup-agent.ts';
import { goesOn, runOnN1, vmid } from './checker/moved-guest.ts';

/** Requests for backups and restores, carried out by an agent on a real guest and a real backup server. */
let place: BackupPlace;
before(async () => {
  place = await startBackupPlace();
});
after(async () => {
  await place[Symbol.asyncDispose]();
});

const over: RequestOrder = {
  kind: 'guest-restore',
  vmid,
  target: 'vault',
  from: { vmid, atSeconds: null },
  name: null,
  bridge: null,
  keepMacs: false,
  want: 'stopped',
  over: true,
};

/** How each point that n2 takes from now on was sent. */
function followCycles({ rig }: AgentRig): string[] {
  const kinds: string[] = [];
  const { replicas } = rig.record;
  const set = replicas.set.bind(replicas);
  replicas.set = (key, record) => {
    if (key === `${vmid}/n2`) kinds.push(record.lastCycle.kind);
    return set(key, record);
  };
  return kinds;
}

test('a guest is backed up and restored as another by requests; refusals and withdrawals leave nothing', async (t) => {
  const rig = await buildAgentRig(t, ['n1']);
  const agent = rig.startAgent('n1');
  await runOnN1(rig);
  const stop = serveRequests(rig, agent);
  t.after(() => stop.abort());

  const unknown = await answered(rig, await ask(rig, backup));
  assert.match(JSON.stringify(unknown), /knows no backup target vault/);
  const target = { ...vault(place), passwordFile: join(place.folder, 'not-there') };
  await put(rig, keys.backupTarget('vault'), target);
  const noSecret = await answered(rig, await ask(rig, backup));
  assert.match(JSON.stringify(noSecret), /not-there cannot be read on this node; put it there/);
  writeFileSync(join(place.folder, 'not-there'), 'geheim\n');

  const done = await answered(rig, await ask(rig, backup));
  assert.equal(done.state, 'done', JSON.stringify(done));
  const record = await read<GuestBackupRecord>(rig, keys.guestBackup(vmid, 'vault'));
  assert.equal(record?.last?.figures.kind, 'whole');
  assert.match(record.last.figures.because, /not at rest/, 'this guest has no agent');
  assert.equal(record.failed, null);

  await put(rig, keys.backupTarget('vault'), { ...target, fingerprint: '00'.repeat(32).replaceAll(/(..)(?!$)/g, '$1:') });
  await delay(1_000);
  const stranger = await answered(rig, await ask(rig, backup));
  assert.match(JSON.stringify(stranger), /nothing was sent to it/);
  const after = await read<GuestBackupRecord>(rig, keys.guestBackup(vmid, 'vault'));
  assert.match(after?.failed?.because ?? '', /nothing was sent to it/);
  assert.deepEqual(after?.last, record.last, 'the last good one stays known');
  await put(rig, keys.backupTarget('vault'), target);

  const restore: RequestOrder = {
    kind: 'guest-restore',
    vmid: 201,
    target: 'vault',
    from: { vmid, atSeconds: null },
    name: 'again',
    bridge: null,
    keepMacs: false,
    want: 'stopped',
  };
  const restored = await answered(rig, await ask(rig, restore));
  assert.equal(restored.state, 'done', JSON.stringify(restored));
  const made = await read<GuestRecord>(rig, keys.guest(201));
  assert.deepEqual(made?.config.disks, (await rig.record(vmid)).config.disks);
  assert.equal(made.name, 'again');
  const numbers = await rig.look('n1', 201);
  assert.ok(numbers.consistent && numbers.newest > 5, JSON.stringify(numbers));
  const taken = await answered(rig, await ask(rig, restore));
  assert.match(JSON.stringify(taken), /exists/);
});

test('a stopped guest is brought back to its backup; what it had is kept, and the other node gets all of it', async (t) => {
  const rig = await buildAgentRig(t, ['n1', 'n2']);
  const agent = rig.startAgent('n1');
  await runOnN1(rig);
  const stop = serveRequests(rig, agent);
  t.after(() => stop.abort());
  const { storage, replication } = rig.node('n1');
  await put(rig, keys.backupTarget('vault'), vault(place));
  const done = await answered(rig, await ask(rig, { ...backup, vmid }));
  assert.equal(done.state, 'done', JSON.stringify(done));
  const then = await rig.look('n1', vmid);
  await goesOn(rig, 'n1', then.newest + 20);
  await replication.syncNow(vmid, 'n2');

  const runs = await answered(rig, await ask(rig, over));
  assert.match(JSON.stringify(runs), /it runs, or is wanted started; stop it first/);
  await want(rig, 'stopped', 'stop');
  const before = await rig.look('n1', vmid);
  assert.ok(before.newest > then.newest + 20);

  const id = await ask(rig, over);
  const restored = await answered(rig, id);
  assert.equal(restored.state, 'done', JSON.stringify(restored));
  const now = await rig.look('n1', vmid);
  assert.ok(now.consistent && now.newest <= then.newest && now.newest > 5, JSON.stringify([now, then]));
  const kept = await read<KeptDisksRecord>(rig, keys.keptDisks(vmid, 'n1'));
  assert.deepEqual(
    kept?.tails.map(({ name }) => name),
    [`replaced-${id}`],
  );
  const [old = ''] = await storage.exportLeftBehind(vmid, `replaced-${id}`, join(place.folder, 'old'));
  assert.equal(createHash('sha256').update(readFileSync(old)).digest('hex'), before.sha256);

  // The agent died between the disks and the record: the next one only brings the record up to date, also when the guest runs by now.
  const record = await rig.record(vmid);
  await put(rig, keys.guest(vmid), { ...record, name: 'not yet', config: { ...record.config, cores: 2 } });
  const kinds = followCycles(rig);
  await want(rig, 'started', 'run');
  await goesOn(rig, 'n1', now.newest);
  await rig.store.commit([], [{ key: keys.request(id), value: null }]);
  const running: RequestState = { state: 'running', progress: { text: '', doneBytes: null, totalBytes: null } };
  const again = await answered(rig, await ask(rig, { ...over, name: 'numbers' }, { id, state: running }));
  assert.match(JSON.stringify(again), /had been replaced before the agent ended/);
  assert.deepEqual((await rig.record(vmid)).config, record.config);

  await replication.syncNow(vmid, 'n2');
  assert.equal(kinds[0], 'compare', 'a bitmap would count from a point that has nothing to do with these disks');
  const copy = await rig.look('n2', vmid);
  assert.ok(copy.consistent && copy.newest > now.newest, JSON.stringify(copy));
});
