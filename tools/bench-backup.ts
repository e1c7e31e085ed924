import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { changeImage, dataPackages, installPackages, makeGuestImage, makeSourceTree, writeTo } from './backup-bench-data.ts';
import { startHoldfast, startHoldfastGuest, unpackProduct } from './backup-bench-holdfast.ts';
import { startBorg, startBup, startRestic, type Cost, type Peer } from './backup-bench-peers.ts';

/**
 * Backups beside restic, borg and bup of Debian, in one run, of one guest image (full, then 1 % changed, then restored) and of a source tree:
 * `node tools/bench-backup.ts [--mib 4096] [--runs 1] [--peers holdfast,sealed,guest,restic,borg,bup] [--data image,tree] [--folder DIR]`.
 */
const { values } = parseArgs({
  options: {
    mib: { type: 'string', default: '4096' },
    runs: { type: 'string', default: '1' },
    percent: { type: 'string', default: '1' },
    peers: { type: 'string', default: 'holdfast,sealed,guest,restic,borg,bup' },
    data: { type: 'string', default: 'image,tree' },
    folder: { type: 'string' },
  },
});
const [mib, runs, percent] = [Number(values.mib), Number(values.runs), Number(values.percent)];
const changeRunBytes = 1024 * 1024;
const treeParts = ['fs', 'kernel', 'mm', 'net', 'include', 'lib', 'drivers/net', 'arch/x86', 'Documentation'];
const goals = { backup: 2, bitmap: 10, restore: 2, stored: 1.1 };
const work = mkdtempSync(join(values.folder ?? tmpdir(), 'holdfast-bench-backup-'));

const starts: Record<string, (folder: string) => Promise<Peer>> = {
  holdfast: (folder) => startHoldfast(folder, unpackProduct(work), false),
  sealed: (folder) => startHoldfast(folder, unpackProduct(work), true),
  guest: (folder) => startHoldfastGuest(folder, unpackProduct(work)),
  restic: startRestic,
  borg: startBorg,
  bup: startBup,
};
const packages: Record<string, string> = { restic: 'restic', borg: 'borgbackup', bup: 'bup', guest: 'qemu-system-common' };
const peers = values.peers.split(',').map((name) => ({ name, start: starts[name] ?? fail(`no peer ${name}`) }));

/** What one program did with one kind of data in one run. `durable`: the restore until everything was on the disk. */
type Row = {
  peer: string;
  note: string;
  full: Cost;
  again: Cost;
  restore: Cost;
  durable: Cost;
  fullBytes: number;
  bothBytes: number;
};

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

async function restore(peer: Peer, path: string, folder: string): Promise<{ cost: Cost; durable: Cost; restored: string }> {
  settle();
  const target = join(folder, 'restored');
  const { cost, restored } = await peer.restore(path, target);
  const start = performance.now();
  execFileSync('sync', ['-f', target]);
  const syncSeconds = (performance.now() - start) / 1_000;
  return { cost, durable: { ...cost, wallSeconds: cost.wallSeconds + syncSeconds }, restored };
}

async function runImage(folder: string, start: (folder: string) => Promise<Peer>, pristine: string): Promise<Row> {
  const image = join(folder, 'disk.raw');
  execFileSync('cp', ['--sparse=always', pristine, image]);
  await using peer = await start(join(folder, 'peer'));
  settle();
  const full = await peer.backup(image);
  const fullBytes = storedBytes(peer.store);
  await changeImage(peer.write ?? writeTo(image), { mib, percent, runBytes: changeRunBytes, seed: 1 });
  settle();
  const again = await peer.backup(image);
  const bothBytes = storedBytes(peer.store);
  const { cost, durable, restored } = await restore(peer, image, folder);
  if (spawnSync('cmp', [image, restored], { stdio: 'inherit' }).status !== 0)
    fail(`${peer.name}: the restored image is another one`);
  return { peer: peer.name, note: peer.note, full, again, restore: cost, durable, fullBytes, bothBytes };
}

async function runTree(folder: string, start: (folder: string) => Promise<Peer>, tree: string): Promise<Row> {
  await using peer = await start(join(folder, 'peer'));
  settle();
  const full = await peer.backup(tree);
  const fullBytes = storedBytes(peer.store);
  const again = await peer.backup(tree);
  const bothBytes = storedBytes(peer.store);
  const { cost, durable, restored } = await restore(peer, tree, folder);
  if (spawnSync('diff', ['-r', '--no-dereference', tree, restored], { stdio: 'inherit' }).status !== 0)
    fail(`${peer.name}: the restored tree is another one`);
  return { peer: peer.name, note: peer.note, full, again, restore: cost, durable, fullBytes, bothBytes };
}

/** Every program once, then again: what happens on this machine meanwhile meets all of them. */
async function compare(
  title: string,
  peers: readonly { name: string; start: (folder: string) => Promise<Peer> }[],
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
  return {
    ...first,
    full: cost((row) => row.full),
    again: cost((row) => row.again),
    restore: cost((row) => row.restore),
    durable: cost((row) => row.durable),
  };
}

const columns = ['full', 'again', 'restore', 'durable'] as const;

function printHead(): void {
  const titles = ['full: wall', 'CPU', 'again: wall', 'CPU', 'restore: wall', 'CPU', 'on disk', 'stored', 'with 2nd'];
  process.stdout.write(`${'(s and MiB)'.padEnd(20)}${titles.map((title) => title.padStart(14)).join('')}\n`);
}

function printRow(row: Row, note: string): void {
  const seconds = [row.full, row.again, row.restore].flatMap(({ wallSeconds, cpuSeconds }) => [wallSeconds, cpuSeconds]);
  const cells = [
    ...[...seconds, row.durable.wallSeconds].map((value) => value.toFixed(2)),
    ...[row.fullBytes, row.bothBytes].map((bytes) => (bytes / 2 ** 20).toFixed(0)),
  ];
  process.stdout.write(`${row.peer.padEnd(20)}${cells.map((cell) => cell.padStart(14)).join('')}   ${row.note}; ${note}\n`);
}

function isOurs({ peer }: Row): boolean {
  return peer.startsWith('holdfast');
}

function printRatios(rows: Row[]): void {
  const others = rows.filter((row) => !isOurs(row));
  for (const row of rows.filter(isOurs)) {
    for (const other of others) {
      const ratios = columns.map((name) => {
        const wall = other[name].wallSeconds / row[name].wallSeconds;
        const cpu = other[name].cpuSeconds / row[name].cpuSeconds;
        return name === 'durable'
          ? `restored on disk ${wall.toFixed(2)}x`
          : `${name} ${wall.toFixed(2)}x (CPU ${cpu.toFixed(2)}x)`;
      });
      const stored = (row.bothBytes / other.bothBytes).toFixed(2);
      process.stdout.write(`${row.peer} is faster than ${other.peer}: ${ratios.join(', ')}; stores ${stored}x of its bytes\n`);
    }
    judgeRow(row, others);
  }
}

function judgeRow(row: Row, others: readonly Row[]): void {
  const restic = others.find(({ peer }) => peer === 'restic');
  if (restic === undefined) return;
  const faster = (name: (typeof columns)[number]): number => restic[name].wallSeconds / row[name].wallSeconds;
  const isByBitmap = row.peer.endsWith('guest');
  judge(row.peer, 'full backup, beside restic', faster('full'), goals.backup, 'at least');
  if (isByBitmap) judge(row.peer, 'second backup by bitmap, beside restic', faster('again'), goals.bitmap, 'at least');
  judge(row.peer, 'restore until it is on the disk, beside restic', faster('durable'), goals.restore, 'at least');
  const smallest = Math.min(...others.map(({ bothBytes }) => bothBytes));
  judge(row.peer, 'stored bytes, beside the best', row.bothBytes / smallest, goals.stored, 'at most');
}

function judge(peer: string, what: string, ratio: number, goal: number, side: 'at least' | 'at most'): void {
  const isMet = side === 'at least' ? ratio >= goal : ratio <= goal;
  process.stdout.write(`goal ${isMet ? 'met   ' : 'MISSED'} ${peer}: ${what}: ${ratio.toFixed(2)}x, goal ${side} ${goal}x\n`);
  if (!isMet) process.exitCode = 1;
}

async function main(): Promise<void> {
  installPackages([...dataPackages, ...peers.flatMap(({ name }) => packages[name] ?? [])]);
  const stable = values.folder ?? work;
  try {
    process.stdout.write(
      [
        `${availableParallelism()} processors; everything is in the page cache and on one disk; a sync before every measurement. CPU is user and system time`,
        'of all processes of a program: of holdfast, installed from its package, client and server, which speak TLS over loopback, while the others write to',
        'their repository themselves. A restore is over when its program ends; `on disk` is that and a sync, which holdfast has made already and the others',
        'have not: that one is judged. Stored: sizes of all files of the repository; holdfast keeps no reserve of space for it. `again`: the image with',
        `${percent} % changed in runs of ${changeRunBytes / 1024} KiB at seeded places; the tree unchanged. Every restored image and tree is compared with the original.`,
        '',
      ].join('\n'),
    );
    if (values.data.includes('image')) {
      const image = makeGuestImage(stable, mib);
      const filled = Number(execFileSync('du', ['-m', image], { encoding: 'utf8' }).split('\t')[0]);
      await compare(
        `guest image: ext4 of ${mib} MiB with files of this machine's /usr; ${filled} MiB of it are not holes`,
        peers,
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
        `source tree: ${treeParts.join(' ')} of Debian's kernel: ${count.length} files, ${size.split('\t')[0]} MiB`,
        peers.filter(({ name }) => name !== 'guest'),
        (folder, start) => runTree(folder, start, tree),
      );
    }
  } finally {
    process.stdout.write('\nremoving what was written\n');
    rmSync(work, { recursive: true, force: true });
  }
}

await main();
