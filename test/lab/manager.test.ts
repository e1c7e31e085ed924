import assert from 'node:assert/strict';
import { test } from 'node:test';
import { managerScenes } from '#lab/drills/drill-names.ts';
import type { ManagerResult } from '#lab/drills/manager-inside.ts';
import { runDrill } from './drill-run.ts';

/** Every scene in one lab, on real guests: what each promises stands in src/lab/drills/manager. */
test('the manager keeps what it promises an operator', { timeout: 840_000 }, async (t) => {
  const { text, code, result } = await runDrill<ManagerResult>(t, ['drill', 'manager'], 820_000);
  for (const scene of managerScenes) {
    await t.test(scene, () => {
      const seen = result?.scenes.find((entry) => entry.scene === scene);
      assert.ok(seen, `the drill never came to ${scene}:\n${text}`);
      assert.deepEqual(seen.broken, [], seen.promise);
    });
  }
  await t.test('no committed row is lost over all hand-overs', () => {
    assert.ok(result?.rows, `the rows were never read back:\n${text}`);
    assert.ok(result.rows.rowsCommitted > 100, `${result.rows.rowsCommitted} rows`);
    assert.equal(result.rows.rowsLost, 0);
    assert.equal(result.rows.rowsCorrupt, 0);
  });
  assert.equal(result?.doubleRuns, 0);
  assert.deepEqual(result.brokenPromises, []);
  assert.equal(code, 0);
});
