import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { describe, test } from 'node:test';
import { compareScenarios } from './compare.ts';
import { answer, replayRuleCheck, replayScenario } from './replay.ts';
import { readScenarioFile } from './scenario-file.ts';

/** The recorded scenarios lie beside the checkout, not in it. */
const path = resolve(import.meta.dirname, '../../../shared/ha-scenarios/public.json');
const skip = existsSync(path) ? false : `no recorded scenarios at ${path}`;

describe('recorded scenarios, replayed on the manager', { skip }, () => {
  if (skip !== false) return;
  const file = readScenarioFile(path);
  for (const scenario of file.scenarios) {
    test(`${scenario.id}, ${scenario.theme}: end, fencings and step order as recorded, no loss takes longer`, () => {
      const world = replayScenario(scenario, file);
      assert.deepEqual(world.unknownActions, []);
      const [comparison] = compareScenarios({ ...file, scenarios: [scenario] }, { [scenario.id]: answer(world) });
      assert.ok(comparison !== undefined, 'the scenario holds no expectation');
      assert.deepEqual([...comparison.must, ...comparison.order, ...comparison.time], []);
    });
  }
  for (const check of file.ruleChecks) {
    test(`${check.id}: the rules dropped are those recorded`, () => {
      assert.deepEqual(replayRuleCheck(check), check.dropped);
    });
  }
});
