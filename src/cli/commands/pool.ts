import type { Command } from 'commander';
import { AppError } from '#base/error.ts';
import { findDiskProblems, planPool, type PoolPlan } from '#core/storage/zfs/pool-plan.ts';
import { judgePool } from '#core/storage/zfs/pool-health.ts';
import { findPoolNotes, formatProblem } from '#core/storage/zfs/pool-record.ts';
import { parsePoolName } from '#core/storage/zfs/names.ts';
import { formatSize } from '#core/text/size.ts';
import type { Cell } from '#core/text/table.ts';
import type { PoolTools } from '#cli/pool-tools.ts';
import { createPrinter, exitCodes, type Printer } from '#cli/session.ts';
import type { CliWorld } from '#cli/world.ts';

type Parts = { tools: PoolTools; printer: Printer };
type Work = (parts: Parts, args: string[], options: Record<string, unknown>) => Promise<number | void>;

/** Adds the group `pool` to the program: the ZFS pools of the machine that it runs on. */
export function addPoolCommands(program: Command, world: CliWorld, run: (code: number) => void): void {
  const group = program.command('pool').description("this machine's ZFS pools, in which guests' disks may lie");
  const act = poolActions(world, run);
  group
    .command('plan <name> <disks...>')
    .description('what a RAID-Z1 pool of these whole disks would be, or everything that stands against it; changes nothing')
    .action(act(plan));
  group
    .command('create <name> <disks...>')
    .description('make that pool, with the dataset NAME/holdfast for guests')
    .option('--yes', 'really: these disks will hold nothing else')
    .action(act(create));
  group
    .command('import [name]')
    .description('take in a pool whose disks are plugged in; without a name: list those')
    .option('--take-over', 'another machine used it last, and that machine is not running')
    .action(act(importOne));
  group
    .command('status [name]')
    .description('every pool with its disks, how full it is, what is wrong with it and what to do')
    .addHelpText(
      'after',
      `\nExit code: ${exitCodes.ok} all is well, ${exitCodes.degraded} it works but somebody must look, ${exitCodes.down} it does not work.`,
    )
    .action(act(showStatus));
  group
    .command('replace <name> <old> <new>')
    .description('put a disk in the place of another, which may be gone; the pool works on meanwhile')
    .action(act(replace));
  group
    .command('scrub <name>')
    .description('read every block and mend what does not match its checksum; nodes do that by themselves once a month')
    .option('--stop', 'stop the one that runs')
    .action(act(scrub));
  group.command('clear <name>').description('count errors from zero, once their cause is mended').action(act(clear));
}

function poolActions(world: CliWorld, run: (code: number) => void) {
  return (work: Work) =>
    async (...parts: unknown[]): Promise<void> => {
      const command = parts.at(-1) as Command;
      const options: Record<string, unknown> = { ...command.optsWithGlobals(), ...command.opts() };
      const printer = createPrinter(world.out, options['json'] === true);
      run((await work({ tools: await world.loadPools(), printer }, command.args, options)) ?? exitCodes.ok);
    };
}

const plan: Work = async (parts, args) => {
  const made = await makePlan(parts, args);
  parts.printer.show(made, () => formatPlan(made));
};

const create: Work = async (parts, args, options) => {
  const made = await makePlan(parts, args);
  const dataset = `${made.pool}/holdfast`;
  if (options['yes'] !== true) {
    throw new AppError(
      'invalid',
      `yes: ${made.pool} would take ${made.disks.join(' ')} for good; add --yes if you mean it. Nothing was changed`,
    );
  }
  await parts.tools.makePool(made, dataset);
  parts.printer.show({ ...made, dataset }, () => {
    const next = `next: holdfast init --dataset ${dataset} (or join), with block-bytes = ${made.blockBytes} in [storage] of node.toml`;
    return `${formatPlan(made)}the pool is made\n${next}\n`;
  });
};

async function makePlan({ tools }: Parts, [name = '', ...disks]: string[]): Promise<PoolPlan> {
  const { plan: made, problems } = planPool(name, await tools.readDisks(disks), await tools.readPoolFacts());
  if (made !== null) return made;
  throw new AppError(
    'conflict',
    `plan pool ${name}: nothing was changed, for\n${problems.map((problem) => `  - ${problem}`).join('\n')}`,
  );
}

function formatPlan({ pool, disks, blockBytes, usableBytes, notes }: PoolPlan): string {
  const lines = [
    `${pool}: RAID-Z1 of ${disks.length} disks, about ${formatSize(usableBytes)} for guests, blocks of ${formatSize(blockBytes)}`,
    ...disks.map((disk) => `  ${disk}`),
    ...notes.map((note) => `note: ${note}`),
  ];
  return lines.map((line) => `${line}\n`).join('');
}

const importOne: Work = async ({ tools, printer }, [name], options) => {
  const facts = await tools.readPoolFacts();
  if (facts.trouble !== null) throw new AppError('unavailable', `look for pools: ${facts.trouble}`);
  if (name === undefined) {
    const rows = facts.offers.map((offer): Cell[] => [offer.name, offer.guid, offer.state, offer.status ?? '']);
    const columns = [{ title: 'POOL' }, { title: 'NUMBER' }, { title: 'STATE' }, { title: 'WHAT ZFS SAYS' }];
    printer.show(facts.offers, () =>
      printer.table(columns, rows, 'no disks of a pool are plugged in that is not imported already'),
    );
    return;
  }
  parsePoolName(name, 'name');
  if (facts.pools.includes(name)) {
    printer.show({ pool: name, imported: true }, () => `${name} is imported already\n`);
    return;
  }
  const offers = facts.offers.filter((offer) => offer.name === name);
  if (offers.length === 0) throw new AppError('missing', `import ${name}: no disks of it are plugged in; nothing was changed`);
  if (offers.length > 1)
    throw new AppError(
      'conflict',
      `import ${name}: disks of ${offers.length} pools of that name are plugged in; leave those of one`,
    );
  const takeOver = options['takeOver'] === true;
  if (offers[0]?.lastUsedElsewhere === true && !takeOver) {
    const next = 'make sure that the machine which used it last does not run, then add --take-over. Nothing was changed';
    throw new AppError(
      'conflict',
      `import ${name}: another machine used it last, and two that write to one pool destroy it; ${next}`,
    );
  }
  await tools.takeInPool(name, { takeOver });
  printer.show({ pool: name, imported: true }, () => `${name} is imported\n`);
};

const showStatus: Work = async ({ tools, printer }, [name]) => {
  const looks = await tools.readPools(name ?? null);
  const pools = looks.map(({ use, status, sectorBytes, volumeBlocks }) => {
    const notes = findPoolNotes(status, { sectorBytes, volumeBlocks });
    return { ...use, health: judgePool(status, use, null), notes, scan: status.scan, devices: status.devices };
  });
  printer.show(pools, () => (pools.length === 0 ? 'no pool is imported here\n' : pools.map(format).join('\n')));
  const worst = pools.some((pool) => pool.health.level === 'lost') ? exitCodes.down : exitCodes.degraded;
  return pools.every((pool) => pool.health.level === 'fine') ? exitCodes.ok : worst;

  function format(pool: (typeof pools)[number]): string {
    const columns = [
      { title: 'POOL AND DISKS' },
      { title: 'STATE' },
      { title: 'READ', align: 'right' as const },
      { title: 'WRITE', align: 'right' as const },
      { title: 'CHECKSUM', align: 'right' as const },
    ];
    const rows = pool.devices.map(({ name: device, depth, state, readErrors, writeErrors, checksumErrors }): Cell[] => [
      `${'  '.repeat(depth)}${device}`,
      { text: state, tone: state === 'ONLINE' ? 'good' : 'bad' },
      ...[readErrors, writeErrors, checksumErrors].map((count): Cell =>
        count === 0 ? '0' : { text: String(count), tone: 'bad' },
      ),
    ]);
    const lines = [
      `${pool.usedPercent} % of ${formatSize(pool.sizeBytes)} used (parity included)`,
      ...pool.notes.map((note) => `note: ${note}`),
      ...pool.health.problems.map((problem) =>
        printer.paint(formatProblem(problem), pool.health.level === 'lost' ? 'bad' : 'warn'),
      ),
    ];
    return `${printer.table(columns, rows, '')}${lines.map((line) => `${line}\n`).join('')}`;
  }
};

const replace: Work = async ({ tools, printer }, [name = '', old = '', next = '']) => {
  const [look] = await tools.readPools(parsePoolName(name, 'name'));
  const devices = look?.status.devices ?? [];
  const leaving = devices.find((device) =>
    [device.name, device.name.replace(/-part1$/, ''), device.name.replace(/.*\//, '').replace(/-part1$/, '')].includes(old),
  );
  if (leaving === undefined || leaving.depth < 1) {
    const known = devices.filter((device) => device.depth > 1).map((device) => device.name);
    throw new AppError('missing', `old: ${name} has no disk ${old}; it has ${known.join(', ')}. Nothing was changed`);
  }
  const [disk] = await tools.readDisks([next]);
  const problems = disk === undefined ? ['new: name a disk'] : findDiskProblems(disk);
  if (problems.length > 0) {
    throw new AppError(
      'conflict',
      `replace ${old} in ${name}: nothing was changed, for\n${problems.map((problem) => `  - ${problem}`).join('\n')}`,
    );
  }
  const taken = disk?.byId ?? next;
  await tools.exchangeDisk(name, leaving.name, taken);
  printer.show(
    { pool: name, old: leaving.name, new: taken },
    () =>
      `${taken} takes the place of ${leaving.name}; it is being filled (holdfast pool status ${name}). Until then no other disk may fail\n`,
  );
};

const scrub: Work = async ({ tools, printer }, [name = ''], options) => {
  const what = options['stop'] === true ? 'stop' : 'start';
  await tools.scrubPool(parsePoolName(name, 'name'), what);
  printer.show({ pool: name, scrub: what }, () =>
    what === 'start' ? `${name} is being scrubbed; see holdfast pool status ${name}\n` : `the scrub of ${name} is stopped\n`,
  );
};

const clear: Work = async ({ tools, printer }, [name = '']) => {
  await tools.clearPoolErrors(parsePoolName(name, 'name'));
  printer.show({ pool: name, cleared: true }, () => `the errors of ${name} are counted from zero\n`);
};
