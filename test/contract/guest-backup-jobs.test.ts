import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createClock } from '#adapters/clock/boot-clock.ts';
import { limits } from '#base/limits.ts';
import { type BackupJob, type GuestBackupRecord, jobRunOf } from '#core/guest-backup/records.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { RequestRecord } from '#core/ha/requests.ts';
import { startBackupPlace, type BackupPlace } from './backup-command-parts.ts';
import { buildAgentRig, type AgentRig } from './checker/agent-rig.ts';
import { answered, ask, backup, put, read, serveBackups, vault } from './checker/backup-agent.ts';
import { until } from './checker/until.ts';

/** Backup jobs on real guests and a real server: by schedule, several at a time, thinned out, aborted. */
let place: BackupPlace;
before(async () => {
  place = await startBackupPlace();
});
after(async () => {
  await place[Symbol.asyncDispose]();
});

const guests = [100, 101, 102];
const job: BackupJob = {
  id: 'often',
  target: 'vault',
  guests: null,
  except: [102],
  schedule: 'minutely',
  keep: { last: 1, hourly: null, daily: null, weekly: null, monthly: null, yearly: null },
  notes: 'by schedule',
  rateBytesPerSecond: null,
  freeze: false,
  enabled: true,
  test: null,
  createdAtMs: Date.now() - 180_000,
};

/** So slow that it takes hours. */
const slowly = { rateBytesPerSecond: 16, freeze: false };

test('a job backs up all guests that are due, two at a time, and keeps what it is told; what is aborted leaves nothing', async (t) => {
  const real = createClock();
  let aheadMs = 0;
  const clock = { ...real, wallMs: () => real.wallMs() + aheadMs };
  const rig = await buildAgentRig(t, ['n1']);
  const served = serveBackups(rig, rig.startAgent('n1'), clock);
  t.after(() => served.stop.abort());
  for (const vmid of guests) await rig.createGuest(vmid, 'n1');
  for (const vmid of guests) await rig.ended(vmid, await rig.order(vmid, { kind: 'run', promote: null }));
  await put(rig, keys.backupTarget('vault'), vault(place));

  let most = 0;
  const looking = setInterval(() => (most = Math.max(most, guests.filter((vmid) => served.desk.isUnderWay(vmid)).length)), 10);
  t.after(() => clearInterval(looking));
  await put(rig, keys.backupJob('often'), job);
  const first = await backedUp(rig, [0, 0]);
  assert.equal(most, 2, 'both at the same time');
  aheadMs += 60_000;
  const second = await backedUp(rig, first);
  await until('the older backups are gone', 20_000, async () => ((await listSnapshots()).length === 2 ? true : null));
  assert.deepEqual(await listSnapshots(), [`100/${second[0]}`, `101/${second[1]}`]);
  await until('the requests are gone', 20_000, async () => ((await listRequests(rig)).length === 0 ? true : null));

  // Aborted by an operator like one that was asked for by hand.
  await put(rig, keys.backupJob('often'), { ...job, except: [101, 102], ...slowly });
  aheadMs += 60_000;
  const run = await underWay(rig, 100, /delta backup/);
  assert.deepEqual(jobRunOf(run), { job: 'often', tries: 0, keep: job.keep });
  await rig.store.commit([], [{ key: keys.request(run.id), value: null }]);
  await until('it has ended', 20_000, () => !served.desk.isUnderWay(100));
  assert.match((await recordOf(rig, 100))?.failed?.because ?? '', /somebody withdrew the request/);
  await put(rig, keys.backupJob('often'), { ...job, enabled: false });

  // By hand as well no more than two at a time, each told what it waits for; the next of a guest builds on the last that succeeded.
  const slow = [await ask(rig, { ...backup, vmid: 100, ...slowly }), await ask(rig, { ...backup, vmid: 101, ...slowly })];
  await underWay(rig, 100, /delta backup/);
  await underWay(rig, 101, /delta backup/);
  const third = await ask(rig, { ...backup, vmid: 102, freeze: false });
  await underWay(rig, 102, /waiting for its turn: n1 makes 2 backups at a time/);
  for (const id of slow) await rig.store.commit([], [{ key: keys.request(id), value: null }]);
  await until('they have ended', 20_000, () => !served.desk.isUnderWay(100) && !served.desk.isUnderWay(101));
  const done = [third, await ask(rig, { ...backup, freeze: false }), await ask(rig, { ...backup, vmid: 101, freeze: false })];
  for (const id of done) assert.equal((await answered(rig, id)).state, 'done', JSON.stringify(await read(rig, keys.request(id))));
  const kinds = await Promise.all(guests.map(async (vmid) => (await recordOf(rig, vmid))?.last?.figures.kind));
  assert.deepEqual(kinds, ['delta', 'delta', 'whole']);
  assert.equal((await recordOf(rig, 100))?.failed, null);

  // Its server was not there: it is tried again.
  const stranger = '00'.repeat(32).replaceAll(/(..)(?!$)/g, '$1:');
  await put(rig, keys.backupTarget('away'), { ...vault(place), id: 'away', fingerprint: stranger });
  const daily = { ...job, id: 'daily', target: 'away', guests: [102], except: [], schedule: 'daily', keep: null };
  await put(rig, keys.backupJob('daily'), { ...daily, createdAtMs: clock.wallMs() - 2 * 24 * 3_600_000 });
  const away = () => read<GuestBackupRecord>(rig, keys.guestBackup(102, 'away'));
  const failed = await until('it has failed', 60_000, async () => (await away())?.failed);
  assert.deepEqual([failed.job, failed.tries], ['daily', 1], failed.because);
  await put(rig, keys.backupTarget('away'), { ...vault(place), id: 'away' });
  aheadMs += limits.backupRetryMs;
  await until('it is tried again', 60_000, async () => ((await away())?.last ?? null) !== null);
  assert.equal((await away())?.failed, null);
});

const recordOf = (rig: AgentRig, vmid: number) => read<GuestBackupRecord>(rig, keys.guestBackup(vmid, 'vault'));

/** Waits until the job has backed up each of its guests after these seconds; returns the new ones. */
async function backedUp(rig: AgentRig, after: number[]): Promise<number[]> {
  const made = after.map(async (past, at) =>
    until(`guest ${guests[at]} is backed up`, 120_000, async () => {
      const record = await recordOf(rig, guests[at]!);
      assert.equal(record?.failed ?? null, null);
      const { atSeconds, figures } = record?.last ?? { atSeconds: 0 };
      if (atSeconds <= past) return null;
      assert.equal(figures?.kind, past === 0 ? 'whole' : 'delta');
      return atSeconds;
    }),
  );
  return await Promise.all(made);
}

async function listRequests(rig: AgentRig): Promise<RequestRecord[]> {
  const { entries } = await rig.store.list(prefixes.requests);
  return entries.map(({ value }) => JSON.parse(value) as RequestRecord);
}

/** The backup of the guest, once it tells something like `words`. */
async function underWay(rig: AgentRig, vmid: number, words: RegExp): Promise<RequestRecord> {
  return await until(`guest ${vmid}: ${words}`, 60_000, async () => {
    const found = (await listRequests(rig)).find((one) => one.kind === 'guest-backup' && one.vmid === vmid);
    assert.notEqual(found?.state, 'failed', JSON.stringify(found));
    return found?.state === 'running' && words.test(found.progress.text) ? found : null;
  });
}

async function listSnapshots(): Promise<string[]> {
  const { out } = await place.run(['list', '--json']);
  const items = JSON.parse(out) as Record<string, unknown>[];
  return items.map((item) => `${String(item['backup-id'])}/${String(item['backup-time'])}`).toSorted();
}
