import { test } from 'node:test';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import { startBackupPlace } from './backup-command-parts.ts';
test('t', async () => {
  let t = Date.now();
  const lap = (what: string) => { console.log(what, Date.now() - t); t = Date.now(); };
  await using place = await startBackupPlace();
  lap('start');
  writeFileSync(join(place.folder, 'work/d'), randomBytes(20e6));
  for (const n of [1, 2]) {
    const r = await place.run(['create', 'd.img:d', '--backup-id', 'x', '--backup-time', `2026-01-01T00:00:0${n}Z`]);
    console.log(r);
    lap('create');
    await place.run(['list']);
    lap('list');
  }
});
