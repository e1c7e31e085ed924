import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { connectNbd } from '#adapters/nbd/nbd-client.ts';
import { diskArchiveName } from '#core/guest-backup/guest-blob.ts';
import { startBackupPlace, type BackupPlace, type Programs } from '../test/contract/backup-command-parts.ts';
import { startDisk, type BenchDisk } from './backup-bench-disk.ts';
import type { GuestOrder } from './backup-bench-guest-job.ts';
import { baseOf, measure, type Cost, type Peer } from './backup-bench-peers.ts';

const root = resolve(import.meta.dirname, '..');
const clockTicks = 100; // USER_HZ of Linux's /proc, on every architecture
const nbdDeadlineMs = 60_000;
const diskName = 'disk0';

/** The programs as a user installs them: our package, built and unpacked below `folder`. */
export function unpackProduct(folder: string): Programs & { guestJob: string } {
  const to = join(folder, 'product');
  if (!existsSync(to)) {
    const build = [
      '--disable-warning=ExperimentalWarning',
      join(root, 'tools/build-deb.ts'),
      '--out',
      join(folder, 'package'),
      '--uncompressed',
    ];
    execFileSync(process.execPath, build, { stdio: ['ignore', 'ignore', 'inherit'] });
    const [file] = readdirSync(join(folder, 'package'));
    execFileSync('dpkg-deb', ['-x', join(folder, 'package', file!), to]);
  }
  const library = join(to, 'usr/lib/holdfast');
  return {
    node: join(library, 'bin/node'),
    server: join(library, 'src/programs/backup/main.js'),
    cli: join(library, 'src/cli/main.js'),
    guestJob: join(library, 'src/programs/guest-backup/upload-thread.js'),
  };
}

type Place = BackupPlace & {
  /** Runs a command, and counts what the server did for it. */
  measured(argv: string[]): Promise<Cost>;
  nextSecond(): number;
};

async function startPlace(folder: string, programs: Programs): Promise<Place> {
  mkdirSync(folder);
  const place = await startBackupPlace({ storeIn: folder, isStoreKept: true, sync: 'filesystem', reserveMib: 0, programs });
  // As the installed command does.
  const env = { ...place.env, NODE_COMPILE_CACHE: join(folder, '../../compile-cache') };
  let second = Math.floor(Date.now() / 1_000) - 100_000;
  return {
    ...place,
    async measured(argv) {
      const before = secondsOf([place.serverPid]);
      const cost = await measure(argv, { env });
      return { ...cost, cpuSeconds: cost.cpuSeconds + secondsOf([place.serverPid]) - before };
    },
    nextSecond: () => (second += 60),
  };
}

/** Processor time of processes that run. */
function secondsOf(pids: readonly number[]): number {
  const ticks = pids.map((pid) => {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /, '')
      .split(' ');
    return Number(fields[11]) + Number(fields[12]); // utime, stime
  });
  return ticks.reduce((sum, value) => sum + value, 0) / clockTicks;
}

/** The server (its processor time counts), and the client over TLS on loopback. */
export async function startHoldfast(folder: string, programs: Programs, isEncrypted: boolean): Promise<Peer> {
  const place = await startPlace(folder, programs);
  const key = join(folder, 'key.json');
  if (isEncrypted) await place.run(['key', 'create', key, '--kdf', 'none']);
  const keyOptions = isEncrypted ? ['--keyfile', key] : [];
  const archiveOf = (path: string): string => (path.endsWith('.raw') ? 'data.img' : 'data.pxar');
  return {
    name: isEncrypted ? 'holdfast, encrypted' : 'holdfast',
    note: isEncrypted ? 'AES-256-GCM, zstd' : 'not encrypted, zstd',
    store: place.store,
    backup(path) {
      const time = new Date(place.nextSecond() * 1_000).toISOString().replace(/\.\d+Z$/, 'Z');
      const what = ['create', `${archiveOf(path)}:${path}`, '--backup-id', 'bench', '--backup-time', time];
      return place.measured(place.commandLine([...what, ...keyOptions]));
    },
    async restore(path, target) {
      mkdirSync(target);
      const restored = join(target, baseOf(path));
      const argv = place.commandLine(['restore', 'host/bench', archiveOf(path), restored, ...keyOptions]);
      return { cost: await place.measured(argv), restored };
    },
    [Symbol.asyncDispose]: () => place[Symbol.asyncDispose](),
  };
}

/**
 * As a guest's disk is backed up: through QEMU's export of it, the second time only what QEMU's bitmap marks. QEMU's storage daemon has the
 * disk and stands for the guest, a process that is there already for the agent; the processor time of both counts.
 */
export async function startHoldfastGuest(folder: string, programs: Programs & { guestJob: string }): Promise<Peer> {
  const place = await startPlace(folder, programs);
  const agent = await startAgent(programs, place.env);
  let disk: BenchDisk | null = null;
  let isFirst = true;
  return {
    name: 'holdfast, guest',
    note: 'not encrypted, zstd; second by bitmap',
    store: place.store,
    async backup(path) {
      disk ??= await startDisk(folder, diskName, path);
      const order: GuestOrder = {
        socketPath: disk.socketPath,
        disk: { name: diskName, sizeBytes: statSync(path).size },
        bitmap: isFirst ? null : disk.bitmap,
        atSeconds: place.nextSecond(),
      };
      isFirst = false;
      const pids = [place.serverPid, disk.pid, agent.pid];
      const [cpuBefore, start] = [secondsOf(pids), performance.now()];
      await agent.backUp(order);
      return { wallSeconds: (performance.now() - start) / 1_000, cpuSeconds: secondsOf(pids) - cpuBefore };
    },
    async write(at, data) {
      if (disk === null) throw new Error('there is no disk yet');
      const nbd = await connectNbd(disk.socketPath, diskName, { deadlineMs: nbdDeadlineMs });
      await nbd.write(at, data);
      await nbd.flush();
      nbd.close();
    },
    async restore(path, target) {
      mkdirSync(target);
      const restored = join(target, baseOf(path));
      const archive = diskArchiveName(diskName).replace(/\.fidx$/, '');
      return { cost: await place.measured(place.commandLine(['restore', 'vm/100', archive, restored])), restored };
    },
    async [Symbol.asyncDispose]() {
      await agent[Symbol.asyncDispose]();
      await disk?.[Symbol.asyncDispose]();
      await place[Symbol.asyncDispose]();
    },
  };
}

type Agent = AsyncDisposable & { pid: number; backUp(order: GuestOrder): Promise<void> };

async function startAgent(programs: Programs & { guestJob: string }, env: NodeJS.ProcessEnv): Promise<Agent> {
  const argv = [join(root, 'tools/backup-bench-guest-job.ts'), programs.guestJob];
  const child = spawn(programs.node, argv, { env, stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const expect = async (wanted: string): Promise<void> => {
    const { value } = (await lines.next()) as { value: string | undefined };
    if (value !== wanted) throw new Error(`the backup of the guest ended: ${value ?? 'see above'}`);
  };
  await expect('ready');
  return {
    pid: child.pid ?? 0,
    async backUp(order) {
      child.stdin.write(`${JSON.stringify(order)}\n`);
      await expect('done');
    },
    async [Symbol.asyncDispose]() {
      child.stdin.end();
      if (child.exitCode === null) await new Promise((resolve) => void child.once('exit', resolve));
    },
  };
}
