import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { changeImage, dataPackages, installPackages, makeGuestImage, makeSourceTree } from './backup-bench-data.ts';
import { startBorg, startBup, startHoldfast, startRestic, type Cost, type Peer } from './backup-bench-peers.ts';

/**
 * Backups beside restic, borg and bup of Debian, in one run, of one guest image (full, then 1 % changed, then restored) and of a source tree:
 * `node tools/bench-backup.ts [--mib 4096] [--runs 1] [--peers holdfast,restic] [--data image,tree] [--folder DIR]`.
 */
const { values } = parseArgs({
  options: {
    mib: { type: 'string', default: '4096' },
    runs: { type: 'string', default: '1' },
    percent: { type: 'string', default: '1' },
    peers: { type: 'string', default: 'holdfast,sealed,restic,borg,bup' },
    data: { type: 'string', default: 'image,tree' },
    folder: { type: 'string' },
  },
});
const [mib, runs, percent] = [Number(values.mib), Number(values.runs), Number(values.percent)];
const changeRunBytes = 1024 * 1024;
const treeParts = ['fs', 'kernel', 'mm', 'net', 'include', 'lib', 'drivers/net', 'arch/x86', 'Documentation'];
const goals = { backup: 2, restore: 2, stored: 1.1 };

const starts: Record<string, (folder: string) => Promise<Peer>> = {
  holdfast: (folder) => startHoldfast(folder, false),
  sealed: (folder) => startHoldfast(folder, true),
  restic: startRestic,
  borg: startBorg,
  bup: startBup,
};
const peers = values.peers.split(',').map((name) => ({ name, start: starts[name] ?? fail(`no peer ${name}`) }));

/** What one program did with one kind of data in one run. */
type Row = { peer: string; note: string; full: Cost; again: Cost | null; restore: Cost; fullBytes: number; bothBytes: number };

function fail(text: string): never {
  throw new Error(text);
}

function storedBytes(folder: string): number {
  const sizes = execFileSync('find', [folder, '-type', 'f', '-printf', '%s\n'], { encoding: 'utf8', maxBuffer: 1 << 30 });
  return sizes.split('\n').reduce((sum, line) => sum + Number(line), 0);
}

/** Nothing that another wrote is written to the disk in a program's time. */
function settle(): void {
  execFileSync('sync');
}

async function runImage(folder: string, start: (folder: string) => Promise<Peer>, pristine: string): Promise<Row> {
  const image = join(folder, 'disk.raw');
  execFileSync('cp', ['--sparse=always', pristine, image]);
  await using peer = await start(join(folder, 'peer'));
  settle();
  const full = await peer.backup(image);
  const fullBytes = storedBytes(peer.store);
  changeImage(image, mib, percent, changeRunBytes, 1);
  settle();
  const again = await peer.backup(image);
  const bothBytes = storedBytes(peer.store);
  settle();
  const { cost, restored } = await peer.restore(image, join(folder, 'restored'));
  if (spawnSync('cmp', [image, restored], { stdio: 'inherit' }).status !== 0)
    fail(`${peer.name}: the restored image is another one`);
  return { peer: peer.name, note: peer.note, full, again, restore: cost, fullBytes, bothBytes };
}

async function runTree(folder: string, start: (folder: string) => Promise<Peer>, tree: string): Promise<Row> {
  await using peer = await start(join(folder, 'peer'));
  settle();
  const full = await peer.backup(tree);
  const fullBytes = storedBytes(peer.store);
  const again = await peer.backup(tree);
  const bothBytes = storedBytes(peer.store);
  settle();
  const { cost, restored } = await peer.restore(tree, join(folder, 'restored'));
  if (spawnSync('diff', ['-r', '--no-dereference', tree, restored], { stdio: 'inherit' }).status !== 0)
    fail(`${peer.name}: the restored tree is another one`);
  return { peer: peer.name, note: peer.note, full, again, restore: cost, fullBytes, bothBytes };
}

/** Every program once, then again: what happens on this machine meanwhile meets all of them. */
async function compare(
  work: string,
  title: string,
  run: (folder: string, start: (folder: string) => Promise<Peer>) => Promise<Row>,
): Promise<void> {
  process.stdout.write(`\n${title}\n`);
  printHead();
  const rows = new Map<string, Row[]>();
  for (let number = 1; number <= runs; number += 1) {
    for (const { name, start } of peers) {
      const folder = mkdtempSync(join(work, `${name}-`)); // removed at the end: that would keep the disk busy in the next one's time
      const row = await run(folder, start);
      printRow(row, `load ${loadavg()[0]?.toFixed(1)}`);
      rows.set(row.peer, [...(rows.get(row.peer) ?? []), row]);
    }
  }
  printRatios([...rows.values()].map(middle));
}

/** The middle of several runs, figure by figure. */
function middle(rows: Row[]): Row {
  const [first] = rows;
  if (first === undefined) return fail('no runs');
  const median = (figure: (row: Row) => number): number =>
    rows.map(figure).toSorted((a, b) => a - b)[Math.floor((rows.length - 1) / 2)] ?? NaN;
  const cost = (of: (row: Row) => Cost): Cost => ({
    wallSeconds: median((row) => of(row).wallSeconds),
    cpuSeconds: median((row) => of(row).cpuSeconds),
  });
  const zero = { wallSeconds: NaN, cpuSeconds: NaN };
  return {
    ...first,
    full: cost((row) => row.full),
    again: cost((row) => row.again ?? zero),
    restore: cost((row) => row.restore),
  };
}

const columns = ['full', 'again', 'restore'] as const;

function printHead(): void {
  const titles = ['full: wall', 'CPU', 'again: wall', 'CPU', 'restore: wall', 'CPU', 'stored', 'with 2nd'];
  process.stdout.write(`${'(s and MiB)'.padEnd(20)}${titles.map((title) => title.padStart(14)).join('')}\n`);
}

function printRow(row: Row, note: string): void {
  const costs = columns.flatMap((name) => [row[name]?.wallSeconds ?? NaN, row[name]?.cpuSeconds ?? NaN]);
  const cells = [
    ...costs.map((value) => value.toFixed(2)),
    ...[row.fullBytes, row.bothBytes].map((bytes) => (bytes / 2 ** 20).toFixed(0)),
  ];
  process.stdout.write(`${row.peer.padEnd(20)}${cells.map((cell) => cell.padStart(14)).join('')}   ${row.note}; ${note}\n`);
}

function printRatios(rows: Row[]): void {
  const others = rows.filter(({ peer }) => !peer.startsWith('holdfast'));
  const restic = others.find(({ peer }) => peer === 'restic');
  const smallest = Math.min(...others.map(({ bothBytes }) => bothBytes));
  for (const row of rows.filter(({ peer }) => peer.startsWith('holdfast'))) {
    for (const other of others) {
      const ratios = columns.map(
        (name) =>
          `${name} ${((other[name]?.wallSeconds ?? NaN) / (row[name]?.wallSeconds ?? NaN)).toFixed(2)}x (CPU ${((other[name]?.cpuSeconds ?? NaN) / (row[name]?.cpuSeconds ?? NaN)).toFixed(2)}x)`,
      );
      process.stdout.write(
        `${row.peer} is faster than ${other.peer}: ${ratios.join(', ')}; stores ${(row.bothBytes / other.bothBytes).toFixed(2)}x of its bytes\n`,
      );
    }
    if (restic === undefined) continue;
    judge(row.peer, 'full backup, beside restic', restic.full.wallSeconds / row.full.wallSeconds, goals.backup, 'at least');
    judge(row.peer, 'restore, beside restic', restic.restore.wallSeconds / row.restore.wallSeconds, goals.restore, 'at least');
    judge(row.peer, 'stored bytes, beside the best', row.bothBytes / smallest, goals.stored, 'at most');
  }
}

function judge(peer: string, what: string, ratio: number, goal: number, side: 'at least' | 'at most'): void {
  const isMet = side === 'at least' ? ratio >= goal : ratio <= goal;
  process.stdout.write(`goal ${isMet ? 'met   ' : 'MISSED'} ${peer}: ${what}: ${ratio.toFixed(2)}x, goal ${side} ${goal}x\n`);
  if (!isMet) process.exitCode = 1;
}

async function main(): Promise<void> {
  installPackages([
    ...dataPackages,
    ...peers.flatMap(({ name }) => ({ restic: 'restic', borg: 'borgbackup', bup: 'bup' })[name] ?? []),
  ]);
  const work = mkdtempSync(join(values.folder ?? tmpdir(), 'holdfast-bench-backup-'));
  const stable = values.folder ?? work;
  try {
    process.stdout.write(
      [
        `${availableParallelism()} processors; everything is in the page cache and on one disk; a sync before every measurement, none after (each program`,
        'makes durable what it does by itself). CPU is user and system time of all processes of a program; of holdfast client and server, which speak TLS',
        "over loopback, while the others write to their repository themselves. Stored: sizes of all files of the repository. 'again': the image with",
        `${percent} % changed in runs of ${changeRunBytes / 1024} KiB at seeded places; the tree unchanged. Every restored image and tree is compared with the original.`,
        '',
      ].join('\n'),
    );
    if (values.data.includes('image')) {
      const image = makeGuestImage(stable, mib);
      const filled = Number(execFileSync('du', ['-m', image], { encoding: 'utf8' }).split('\t')[0]);
      await compare(
        work,
        `guest image: ext4 of ${mib} MiB with files of this machine's /usr; ${filled} MiB of it are not holes`,
        (folder, start) => runImage(folder, start, image),
      );
    }
    if (values.data.includes('tree')) {
      const tree = makeSourceTree(stable, treeParts);
      const [size, count] = [
        execFileSync('du', ['-sm', '--apparent-size', tree], { encoding: 'utf8' }),
        execFileSync('find', [tree, '-type', 'f', '-printf', 'x'], { encoding: 'utf8', maxBuffer: 1 << 26 }),
      ];
      await compare(
        work,
        `source tree: ${treeParts.join(' ')} of Debian's kernel: ${count.length} files, ${size.split('\t')[0]} MiB`,
        (folder, start) => runTree(folder, start, tree),
      );
    }
  } finally {
    process.stdout.write('\nremoving what was written\n');
    rmSync(work, { recursive: true, force: true });
  }
}

await main();
