import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { guestRunPaths } from '#core/guest/guest-paths.ts';
import { removeLeftScratch } from '#programs/agent/left-scratch.ts';

test('scratch of guests whose process is gone goes, that of others and what is not ours stays', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'hf-scratch-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const [scratch, run] = [join(folder, 'scratch'), join(folder, 'run')];
  assert.deepEqual(removeLeftScratch(scratch, run), []);
  for (const name of ['100', '100-backup', '101', '101-backup', 'mine']) {
    mkdirSync(join(scratch, name), { recursive: true });
    writeFileSync(join(scratch, name, 'disk0.scratch'), 'old');
  }
  mkdirSync(guestRunPaths(run, 101).folder, { recursive: true });
  assert.deepEqual(removeLeftScratch(scratch, run), [100, 100]);
  assert.deepEqual(readdirSync(scratch).toSorted(), ['101', '101-backup', 'mine']);
});
