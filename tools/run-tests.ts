import { globSync } from 'node:fs';
import { ensureEmulator } from '#lab/images/emulator.ts';
import { ensureImages } from '#lab/images/images.ts';
import { ensureMachine } from '#lab/images/machine.ts';
import { killTestProcesses, runTestProcess, type TestProcessEnd } from './test-process.ts';
import { createLeafCounter, formatTally, type Tally, type Verdict } from './test-tally.ts';

/**
 * Runs the tests, stage by stage, and ends with one line that tells how many passed. `run-tests.ts [STAGE …] [PART OF A PATH …]` picks.
 * Exit status 0 only when something ran and nothing failed.
 */
type Stage = { name: string; patterns: string[]; together: boolean; needsImages: boolean; deadlineMs: number };

const stages: Stage[] = [
  // All in one process: sixty processes would take longer to start than the tests take.
  { name: 'unit', patterns: ['src/**/*.test.ts', 'tools/*.test.ts'], together: true, needsImages: false, deadlineMs: 120_000 },
  { name: 'scenarios', patterns: ['test/scenarios/*.test.ts'], together: true, needsImages: false, deadlineMs: 120_000 },
  { name: 'sim', patterns: ['test/sim/*.test.ts'], together: false, needsImages: false, deadlineMs: 600_000 },
  { name: 'contract', patterns: ['test/contract/*.test.ts'], together: false, needsImages: true, deadlineMs: 300_000 },
  { name: 'lab', patterns: ['test/lab/*.test.ts'], together: false, needsImages: true, deadlineMs: 900_000 },
];

/** It boots a server of the full lab, whose image takes a quarter of an hour to build. */
const machineTest = 'test/lab/machine.test.ts';

const marks = { passed: '✔', failed: '✖', skipped: '–' } as const;
const tally: Tally = { passed: 0, failed: 0, skipped: 0 };
const failures: string[] = [];

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(1)} s`;
}

function indent(text: string, by: string): string {
  return text.trimEnd().replaceAll(/^/gm, by);
}

/** Of a long message the beginning, for the list at the end: often only the end of a log is kept. */
function shorten(text: string): string {
  const lines = text
    .trimEnd()
    .split('\n')
    .filter((line) => !/^\s+at .*(node:internal|node:async_hooks)/.test(line));
  return lines.length <= 12 ? lines.join('\n') : [...lines.slice(0, 12), `… ${lines.length - 12} more lines above`].join('\n');
}

/** The files of each stage that the words on the command line pick; all of them without words. */
function chooseFiles(words: string[]): { stage: Stage; files: string[] }[] {
  const names = new Set(stages.map(({ name }) => name));
  const picked = words.filter((word) => names.has(word));
  const parts = words.filter((word) => !names.has(word));
  return stages
    .filter(({ name }) => picked.length === 0 || picked.includes(name))
    .map((stage) => ({ stage, files: globSync(stage.patterns).toSorted() }))
    .map(({ stage, files }) => ({
      stage,
      files: files.filter((file) => parts.length === 0 || parts.some((part) => file.includes(part))),
    }))
    .filter(({ files }) => files.length > 0);
}

function count(verdict: Verdict, isListed: boolean): void {
  tally[verdict.outcome] += 1;
  const why = verdict.outcome === 'skipped' ? `: ${verdict.why}` : '';
  if (isListed || verdict.outcome !== 'passed')
    say(`    ${marks[verdict.outcome]} ${verdict.name} (${seconds(verdict.tookMs)})${why}`);
  if (verdict.outcome !== 'failed') return;
  say(indent(verdict.why ?? 'no reason given', '        '));
  failures.push(`${verdict.file}: ${verdict.name}\n${indent(shorten(verdict.why ?? ''), '    ')}`);
}

/** One process that runs these files; its tests are listed one by one unless there are many small ones. */
async function runFiles(stage: Stage, title: string, files: string[]): Promise<void> {
  say(`${stage.name}: ${title}`);
  const before = { ...tally };
  const beganMs = performance.now();
  const leafOf = createLeafCounter();
  const end = await runTestProcess(files, stage.deadlineMs, (line) => {
    if (line.kind === 'note') return stage.together ? undefined : say(indent(line.text, '        '));
    const verdict = leafOf(line);
    if (verdict !== null) count(verdict, !stage.together);
  });
  const trouble = describeEnd(end, stage);
  const ran = tally.passed + tally.failed + tally.skipped - before.passed - before.failed - before.skipped;
  if (trouble !== null || ran === 0)
    count({ outcome: 'failed', file: title, name: 'the process that ran it', tookMs: 0, why: trouble ?? 'no test ran' }, true);
  if (tally.failed > before.failed && end.output.trim() !== '') say(`    it printed:\n${indent(end.output, '        ')}`);
  say(`    ${ran} tests, ${seconds(performance.now() - beganMs)}`);
}

function describeEnd(end: TestProcessEnd, stage: Stage): string | null {
  if (end.how === 'late') return `not finished after ${seconds(stage.deadlineMs)}: killed with all it had started`;
  if (end.signal !== null) return `ended by ${end.signal}`;
  return end.code === 0 ? null : `ended with status ${end.code}`;
}

async function runStages(words: string[]): Promise<void> {
  const chosen = chooseFiles(words);
  if (chosen.length === 0)
    say(`no test file matches: ${words.join(' ')}; stages are ${stages.map(({ name }) => name).join(', ')}`);
  for (const { stage, files } of chosen) {
    // Outside of any test's deadline: the first build downloads packages.
    const progress = (message: string) => say(`building ${message}`);
    if (stage.needsImages) await ensureImages({ progress });
    if (files.includes(machineTest) && process.getuid?.() === 0) {
      await ensureEmulator({ progress });
      await ensureMachine({ progress });
    }
    if (stage.together) await runFiles(stage, `${files.length} files`, files);
    else for (const file of files) await runFiles(stage, file, [file]);
  }
}

async function main(): Promise<void> {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      killTestProcesses();
      process.exit(signal === 'SIGINT' ? 130 : 143);
    });
  }
  process.once('exit', killTestProcesses);
  const beganMs = performance.now();
  await runStages(process.argv.slice(2));
  if (failures.length > 0) say(`\nfailed:\n${failures.map((failure) => indent(failure, '    ')).join('\n')}`);
  say(`\n${seconds(performance.now() - beganMs)} in all`);
  say(formatTally(tally));
  process.exitCode = tally.failed > 0 || tally.passed === 0 ? 1 : 0;
}

await main();
