import { createHash } from 'node:crypto';
import { writeSync } from 'node:fs';
import { openDatastore } from '../../src/adapters/datastore/datastore.ts';
import { chunkOf, realParts, sendArchive, snapshotAt } from './datastore-parts.ts';

/**
 * Run as a process of its own to be killed: `datastore-writer.ts ROOT FIRST-SECOND` backs up, prunes and collects as fast as it can and
 * writes one line for each backup that was acknowledged, and one before each removal.
 */
const [, , root = '', first = '1'] = process.argv;
const store = await openDatastore(realParts(root));
const group = { namespace: [], type: 'vm', id: '100' } as const;
const rules = { last: 3, hourly: null, daily: null, weekly: null, monthly: null, yearly: null };

for (let second = Number(first); ; second += 1) {
  const session = await store.startBackup(snapshotAt(second), 'root@pam');
  const datas = Array.from({ length: 6 }, (_, part) =>
    createHash('sha512')
      .update(`${(second * 7 + part * part) % 40}`)
      .digest(),
  );
  await sendArchive(
    session,
    datas.map((data) => chunkOf(data)),
  );
  if (second % 5 === 0) {
    await session.abort();
    continue;
  }
  await session.finish();
  writeSync(1, `done ${second}\n`);
  const collecting = second % 3 === 0 ? store.collectGarbage() : null;
  for (const { snapshot, mark } of await store.prune(group, rules, { dryRun: true })) {
    if (mark !== 'remove') continue;
    writeSync(1, `gone ${snapshot.atSeconds}\n`);
    await store.removeSnapshot(snapshot);
  }
  await collecting;
}
