import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { BackupDrillResult } from '#lab/drills/backup-inside.ts';
import { runDrill } from './drill-run.ts';

/** The quickest two scenes of the drill: what each promises stands in src/lab/drills/backup. */
const scenes = ['twice', 'restore'];

test('a database under load is backed up twice and restored with every row', { timeout: 620_000 }, async (t) => {
  const argv = ['drill', 'backup', '--only', scenes.join(',')];
  const { text, code, result } = await runDrill<BackupDrillResult>(t, argv, 600_000);
  for (const scene of scenes) {
    await t.test(scene, () => {
      const seen = result?.scenes.find((entry) => entry.scene === scene);
      assert.ok(seen, `the drill never came to ${scene}:\n${text}`);
      assert.deepEqual(seen.broken, [], seen.promise);
    });
  }
  assert.deepEqual(result?.brokenPromises, []);
  assert.equal(code, 0);
});
