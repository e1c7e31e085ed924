import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { PullsResult } from '#lab/drills/pulls-inside.ts';
import { runDrill } from './drill-run.ts';

test(
  'the plug pulled on a plain node and on the one that leads everything: QEMU runs elsewhere within 20 s',
  { timeout: 420_000 },
  async (t) => {
    const argv = ['drill', 'pulls', '--count', '1', '--roles', 'plain,manager,store,both'];
    const { code, text, result } = await runDrill<PullsResult>(t, argv, 400_000);
    assert.ok(result, text);
    assert.deepEqual(result.brokenPromises, []);
    assert.deepEqual(
      result.pulls.map((pull) => [pull.role, pull.proof, pull.falseFencings]),
      ['plain', 'manager', 'store', 'both'].map((role) => [role, 'silence', []]),
    );
    assert.equal(result.doubleRuns, 0);
    assert.equal(code, 0);
  },
);

test(
  'a management controller that confirms the power is off brings QEMU up elsewhere within 10 s',
  { timeout: 300_000 },
  async (t) => {
    const argv = ['drill', 'pulls', '--count', '1', '--roles', 'plain,both', '--controller'];
    const { code, text, result } = await runDrill<PullsResult>(t, argv, 280_000);
    assert.ok(result, text);
    assert.deepEqual(result.brokenPromises, []);
    assert.deepEqual(
      result.pulls.map((pull) => pull.proof),
      ['power-off', 'power-off'],
    );
    assert.equal(code, 0);
  },
);
