import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { OneMachineResult } from '#lab/full/one-machine.ts';
import { runDrill } from './drill-run.ts';

const skip = process.getuid?.() === 0 ? false : 'machines of the full lab need root';

test(
  'a server with its own kernel: our package, a RAID-Z1, a watchdog that resets, the contract tests of the zfs driver',
  { skip, timeout: 880_000 },
  async (t) => {
    const { code, text, result } = await runDrill<OneMachineResult>(t, ['drill', 'machine', '--disks', 'volume'], 870_000);
    assert.ok(result, text);
    assert.deepEqual(result.brokenPromises, []);
    assert.deepEqual([result.tests.failed, result.tests.skipped], [0, 0]);
    assert.ok(result.tests.passed >= 20, `${result.tests.passed} tests passed`);
    assert.equal(code, 0);
  },
);
