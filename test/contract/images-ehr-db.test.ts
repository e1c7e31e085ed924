import assert from 'node:assert/strict';
import { constants, copyFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { type DbLoad, startDbLoad } from '#lab/db-load.ts';
import { ehrDatabase, ehrDbAppend, ensureEhrDb } from '#lab/images/ehr-db.ts';
import { bootGuest, type BootOptions, freePort, temporaryFolder, until, userNetworkGuest } from './images-qemu.ts';

const bootMs = 90_000;

async function prepare(directory: string, hostPort: number, progress: (message: string) => void): Promise<BootOptions> {
  const image = await ensureEhrDb({ progress });
  const disk = join(directory, 'disk0.raw');
  copyFileSync(image.rootImage, disk, constants.COPYFILE_FICLONE);
  const forward = { hostPort, guestPort: ehrDatabase.port };
  return { ...image, directory, disks: [disk], append: ehrDbAppend({ address: userNetworkGuest }), forward };
}

function waitForRows(load: DbLoad, rows: number): Promise<true> {
  return until(`${rows} rows are committed`, bootMs, () => (load.state().rowsCommitted >= rows ? true : null));
}

test('acknowledged rows survive the loss of power of the database guest', { timeout: 5 * bootMs }, async (t) => {
  using folder = temporaryFolder('ehr-db');
  const hostPort = await freePort();
  const options = await prepare(folder.path, hostPort, (message) => t.diagnostic(message));
  const file = join(folder.path, 'load.jsonl');
  const load = startDbLoad({ ...ehrDatabase, host: '127.0.0.1', port: hostPort, file, rate: 50, batch: 1 });
  t.after(() => load.stop().catch(() => {}));
  await firstLife(t, options, load);
  await secondLife(t, options, load);
});

async function firstLife(t: TestContext, options: BootOptions, load: DbLoad): Promise<void> {
  const beganMs = performance.now();
  await using guest = bootGuest(options);
  const answeringMs = await guest.waitForConsole('database answering', bootMs);
  await waitForRows(load, 1);
  t.diagnostic(
    `database answering after ${answeringMs} ms, first row committed after ${Math.round(performance.now() - beganMs)} ms`,
  );
  for (const mark of ['kernel up', 'network up', 'database starting'])
    assert.match(guest.console(), new RegExp(`holdfast-guest: [\\d.]+ s: ${mark}`));
  await waitForRows(load, 100);
  await guest.kill();
}

async function secondLife(t: TestContext, options: BootOptions, load: DbLoad): Promise<void> {
  await until('the client notices', bootMs, () => load.state().outages[0] ?? null);
  const before = load.state().rowsCommitted;
  const beganAtMs = Date.now();
  await using guest = bootGuest(options);
  await waitForRows(load, before + 50);
  const report = await load.stop();
  const [outage] = report.outages;
  t.diagnostic(
    `after the crash: first answer ${(outage?.answeringAtMs ?? 0) - beganAtMs} ms, first commit ${(outage?.committingAtMs ?? 0) - beganAtMs} ms ` +
      `after QEMU started; commits take ${report.commitMs.p50} ms (p99 ${report.commitMs.p99})`,
  );
  assert.match(guest.console(), /automatic recovery in progress/);
  assert.deepEqual([report.rowsLost, report.lost, report.rowsCorrupt, report.outages.length], [0, [], 0, 1]);
  assert.ok(report.rowsCommitted >= before + 50 && report.rowsUnanswered <= 1);
  assert.ok((outage?.maxIdFound ?? 0) >= report.firstId + before - 1, 'the first answer already held every acknowledged row');
  await guest.powerButton(bootMs);
  assert.match(guest.console(), /database system is shut down/);
}
