import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { MainJobResult } from '#lab/drills/main-job-report.ts';
import { runDrill } from './drill-run.ts';

test('the main job: the database answers again from another node, and every promise holds', { timeout: 420_000 }, async (t) => {
  const argv = ['--lab', `mj-${process.pid}`, 'drill', 'main', '--once'];
  const { code, text, result } = await runDrill<MainJobResult>(t, argv, 400_000);
  assert.ok(result, text);
  assert.deepEqual(result.brokenPromises, []);
  assert.equal(result.doubleRun, false);
  assert.ok(result.rtoToStartMs !== null && result.rtoToStartMs <= 20_000, `QEMU started after ${result.rtoToStartMs} ms`);
  assert.ok(result.rtoToServiceMs !== null, 'the database answered');
  assert.ok(result.rowsCommitted > 100, `${result.rowsCommitted} rows`);
  assert.ok(result.timeline.length >= 8, 'the timeline tells the story');
  assert.equal(code, 0);
});
