import type { Command } from 'commander';
import { AppError } from '#base/error.ts';
import { noCounts } from '#sim/counts.ts';
import { describeCoverage } from '#sim/invariants.ts';
import { parseSeeds } from '#sim/report.ts';
import type { RunResult } from '#sim/simulation.ts';
import { type CommonOptions, createPrinter, exitCodes } from '#cli/session.ts';
import { parseJobs, SimulationPool } from '#cli/simulate-pool.ts';
import type { CliWorld } from '#cli/world.ts';

type SimulateOptions = { seeds: string; hours: string; quiet?: boolean; jobs?: string };

/** Exit code of a run in which an invariant did not hold. */
const brokenCode = 1;
/** How often a person sees how far it is. */
const progressMs = 5_000;

/** Adds the command `simulate`: the real decision code in a simulated cluster, with faults, from seeds. */
export function addSimulateCommand(program: Command, world: CliWorld, run: (code: number) => void): void {
  program
    .command('simulate')
    .description('run the decision code of a whole cluster against simulated faults and check every invariant')
    .option('--seeds <first..last>', 'one world for each seed', '1..20')
    .option('--hours <number>', 'simulated hours of all seeds together, the same for each of them', '10')
    .option('--quiet', 'nothing fails: jitter, short pauses, wrong clocks and elections must fence nobody')
    .option('--jobs <number>', 'seeds that run at the same time (default: one for each core)')
    .addHelpText(
      'after',
      [
        '',
        'Examples:',
        '  simulate --seeds 1..1000 --hours 10000         10 hours in each of 1,000 worlds',
        '  simulate --seeds 7 --hours 8760 --quiet        a year in one quiet world',
        '',
        'A seed runs on to the end of the round in which its hours are over. The same seeds and hours give the same',
        'result with any number of jobs. Ctrl-C ends it and shows what it has come to.',
      ].join('\n'),
    )
    .action(async (options: SimulateOptions, command: Command) => {
      run(await simulate(world, options, command.optsWithGlobals<CommonOptions>().json === true));
    });
}

async function simulate(world: CliWorld, options: SimulateOptions, json: boolean): Promise<number> {
  const { first, last } = parseSeeds(options.seeds);
  const hours = Number(options.hours);
  if (!(hours > 0 && hours <= 1_000_000)) throw new AppError('invalid', `hours: ${options.hours} is not a number above 0`);
  const seeds = last - first + 1;
  const quiet = options.quiet === true;
  // Its first lines name the seed and what it broke; the whole story comes with the result.
  const onFailure = (story: string) => world.err.write(`${story.split('\n', 2).join('\n')}\n`);
  const pool = new SimulationPool({ first, last, hoursPerSeed: hours / seeds, quiet, jobs: parseJobs(options.jobs), onFailure });
  const startMs = performance.now();
  const timer = setInterval(() => {
    const { seedsDone, hours: done, violations } = pool.progress();
    const seconds = (performance.now() - startMs) / 1_000;
    world.err.write(
      `${done.toFixed(1)} of ${hours} hours, ${seedsDone} of ${seeds} seeds done, ${violations} violations, ` +
        `${(done / seconds).toFixed(1)} hours per second\n`,
    );
  }, progressMs);
  const runs = await pool.run(world.signal).finally(() => clearInterval(timer));
  const tookSeconds = (performance.now() - startMs) / 1_000;
  const failures = runs.flatMap(({ failure }) => failure ?? []);
  const { aborted } = world.signal;
  if (aborted)
    world.err.write(`interrupted: ${runs.length} of ${seeds} seeds were begun, the last of them are not at their end\n`);
  show(
    world,
    runs.map(({ result }) => result),
    failures,
    tookSeconds,
    json,
  );
  if (aborted) return exitCodes.interrupted;
  return failures.length > 0 ? brokenCode : exitCodes.ok;
}

function show(world: CliWorld, results: RunResult[], failures: string[], tookSeconds: number, json: boolean): void {
  const totals = sumUp(results);
  const hoursPerSecond = totals.hours / tookSeconds;
  const value = {
    seeds: results.length,
    ...totals,
    hoursPerSecond,
    violations: results.flatMap(({ seed, violation }) => (violation === null ? [] : [{ seed, ...violation }])),
    coverage: describeCoverage(),
  };
  createPrinter(world.out, json).show(value, () =>
    [
      ...failures,
      `${results.length} seeds, ${formatHours(results)} simulated in ${tookSeconds.toFixed(1)} s: ${hoursPerSecond.toFixed(2)} hours per second`,
      `${totals.faults} faults, ${totals.claims} claims, ${totals.recoveries} recoveries, ${totals.declines} declined copies, ` +
        `${totals.moves} moves, ${totals.commands} commands, ${totals.disarms} disarms, ${totals.quarantines} quarantines, ` +
        `${totals.failed} guests given up as failed, ${totals.releases} releases, ${totals.starts} starts, ${totals.seals} points, ${totals.boots} boots, ${totals.elections} elections`,
      `longest: ${totals.plugMs} ms from a pulled plug to every guest elsewhere, ${totals.releaseMs} ms after a release, ` +
        `${totals.allOffMs} ms after power came back, ${totals.healMs} ms after chaos, ${totals.moveMs} ms for a move, ${totals.drainMs} ms for a drain; ` +
        `${totals.handsNeeded} machines were turned on by hand`,
      describeCoverage(),
      failures.length === 0 ? 'no violation' : `${failures.length} violations`,
      '',
    ].join('\n'),
  );
}

function sumUp(results: RunResult[]) {
  const sum = (pick: (result: RunResult) => number) => results.reduce((total, result) => total + pick(result), 0);
  const most = (pick: (result: RunResult) => number) => results.reduce((top, result) => Math.max(top, pick(result)), 0);
  return {
    hours: sum((result) => result.hours),
    events: sum((result) => result.events),
    faults: sum((result) => result.faults),
    handsNeeded: sum((result) => result.handsNeeded),
    ...sumCounts(results),
    plugMs: most(({ longest }) => longest.plugMs),
    releaseMs: most(({ longest }) => longest.releaseMs),
    allOffMs: most(({ longest }) => longest.allOffMs),
    healMs: most(({ longest }) => longest.healMs),
    moveMs: most(({ longest }) => longest.moveMs),
    drainMs: most(({ longest }) => longest.drainMs),
  };
}

/** How often each thing happened in all runs together. */
function sumCounts(results: RunResult[]): RunResult['counts'] {
  const sums: Record<string, number> = { ...noCounts, elections: 0, boots: 0 };
  for (const { counts } of results) for (const [name, count] of Object.entries(counts)) sums[name] = (sums[name] ?? 0) + count;
  return sums as RunResult['counts'];
}

function formatHours(results: RunResult[]): string {
  return `${results.reduce((total, result) => total + result.hours, 0).toFixed(1)} hours`;
}
