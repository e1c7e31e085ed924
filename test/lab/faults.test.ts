import assert from 'node:assert/strict';
import { test } from 'node:test';
import { faultNames } from '#lab/drills/drill-names.ts';
import type { FaultResult } from '#lab/drills/faults/scene.ts';
import { runDrill } from './drill-run.ts';

/** Every fault in one lab: what each promises stands in src/lab/drills/faults. */
test('every fault is survived as promised', { timeout: 840_000 }, async (t) => {
  const { text, code, result } = await runDrill<FaultResult[]>(t, ['drill', 'faults'], 820_000);
  for (const fault of faultNames) {
    await t.test(fault, () => {
      const seen = result?.find((entry) => entry.fault === fault);
      assert.ok(seen, `the drill never came to ${fault}:\n${text}`);
      assert.deepEqual(seen.broken, [], seen.promise);
    });
  }
  assert.equal(code, 0);
});
