import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { freezeGuest, thawGuest } from '#adapters/qmp/guest-agent.ts';
import { guestRunPaths } from '#core/guest/guest-paths.ts';
import { startBackupPlace, type BackupPlace } from './backup-command-parts.ts';
import { agentDisk, needsJournal, startAgentGuest, writeAgentDisk } from './checker/agent-guest.ts';
import { backupOrder, backupsOf } from './checker/backup-rig.ts';
import { buildRig, type Rig } from './checker/node-rig.ts';
import { until } from './checker/until.ts';

/** QEMU's own agent in a guest with a file system that is written to. */
const vmid = 100;
const never = new AbortController().signal;
let place: BackupPlace;
let rig: Rig;
let guest: Awaited<ReturnType<typeof startAgentGuest>>;

before(async () => {
  place = await startBackupPlace();
  rig = await buildRig(['n1']);
  const image = join(rig.path, 'disk.raw');
  writeAgentDisk(image);
  const { storage, run } = rig.node('n1');
  await storage.create(vmid, 1, [{ ...agentDisk, importFile: image }]);
  guest = await startAgentGuest({ vmid, generation: 1, run, disks: await storage.openPrimary(vmid, 1) });
  await guest.resume();
  await goesOn();
});

after(async () => {
  await guest[Symbol.asyncDispose]();
  await rig[Symbol.asyncDispose]();
  await place[Symbol.asyncDispose]();
});

async function goesOn(): Promise<void> {
  const from = guest.written();
  await until('the guest writes', 60_000, () => guest.written() > from + 5);
}

test('the agent brings the file system to rest: nobody writes until it lets it go', async () => {
  const { guestAgent } = guestRunPaths(rig.node('n1').run, vmid);
  await until('the agent answers', 30_000, async () => (await freezeGuest(guestAgent)).kind === 'frozen');
  await delay(300); // the line of the last number may be on its way
  const then = guest.written();
  await delay(1_000);
  assert.equal(guest.written(), then);
  const again = await freezeGuest(guestAgent);
  assert.equal(again.kind === 'not-frozen' && again.asked, 'refused', 'one that is at rest says so');
  assert.equal(await thawGuest(guestAgent), null);
  await goesOn();
  assert.equal(await thawGuest(guestAgent), null, 'also one that goes on already');
});

test('a backup for which the guest was at rest needs no journal, another one does; both let the guest go on', async () => {
  const make = async (freeze: boolean) => {
    await delay(1_000 - (Date.now() % 1_000));
    const made = await backupsOf(rig, 'n1', guest).make(backupOrder(place, { freeze }), never);
    const out = join(place.folder, `disk-${freeze}`);
    const restored = await place.run(['restore', `vm/${vmid}`, 'drive-disk0.img', out]);
    assert.equal(restored.code, 0, restored.err);
    await goesOn();
    return { consistency: made.figures.consistency, needsJournal: needsJournal(out) };
  };
  assert.deepEqual(await make(true), { consistency: 'frozen', needsJournal: false });
  assert.deepEqual(await make(false), { consistency: 'crash', needsJournal: true });
});
