import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { AppError } from '#base/error.ts';
import { compareScenarios } from '../test/scenarios/compare.ts';
import { answer, replayRuleCheck, replayScenario } from '../test/scenarios/replay.ts';
import { type Answers, readScenarioFile, type ScenarioFile } from '../test/scenarios/scenario-file.ts';
import { formatTable } from '../test/scenarios/verdict-table.ts';

/**
 * `npm run scenarios -- FILE [--json [OUT]] [--only ID] [--trace]`: replays a scenario file on the core and writes the answers; without
 * OUT they go to standard output. Expectations in the file are compared and told on standard error. Exit status 1 when one that must hold does not.
 */
function main(): void {
  const words = process.argv.slice(2);
  // `--json` as the last word: to standard output.
  const { values, positionals } = parseArgs({
    args: words.at(-1) === '--json' ? words.slice(0, -1) : words,
    allowPositionals: true,
    options: { json: { type: 'string' }, only: { type: 'string' }, trace: { type: 'boolean', default: false } },
  });
  const [path] = positionals;
  if (path === undefined) throw new AppError('invalid', 'which scenario file? Say: npm run scenarios -- FILE --json OUT');
  const file = pick(readScenarioFile(path), values.only);
  const answers = replayAll(file, values.trace);
  const text = `${JSON.stringify(answers, null, 2)}\n`;
  if (values.json === undefined) process.stdout.write(text);
  else writeFileSync(values.json, text);
  const comparisons = compareScenarios(file, answers);
  const checks = file.ruleChecks
    .filter((check) => check.dropped !== undefined)
    .map((check) => ({ id: check.id, dropped: replayRuleCheck(check), recorded: check.dropped ?? [] }));
  process.stderr.write(formatTable(comparisons, checks));
  const failed = comparisons.some((entry) => entry.counts && entry.must.length > 0);
  if (failed || checks.some((check) => check.dropped.join() !== check.recorded.join())) process.exitCode = 1;
}

function pick(file: ScenarioFile, only: string | undefined): ScenarioFile {
  return only === undefined
    ? file
    : { ...file, scenarios: file.scenarios.filter((scenario) => scenario.id === only), ruleChecks: [] };
}

function replayAll(file: ScenarioFile, trace: boolean): Answers {
  const answers: Answers = {};
  for (const scenario of file.scenarios) {
    const world = replayScenario(scenario, file);
    answers[scenario.id] = answer(world);
    for (const action of world.unknownActions) process.stderr.write(`${scenario.id}: passed over, not known here: ${action}\n`);
    if (world.unknownActions.length > 0) process.exitCode = 1;
    if (!trace) continue;
    for (const { t, kind, workload, node, text } of world.events)
      process.stderr.write(`${t} ${kind} ${workload ?? ''} ${node === undefined ? '' : `@${node}`} ${text ?? ''}\n`);
  }
  for (const check of file.ruleChecks) answers[check.id] = { dropped: replayRuleCheck(check) };
  return answers;
}

main();
