import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, closeSync, fsyncSync, mkdirSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { serveDisks, serveWritable, writeContent } from '#adapters/dir/serve-disks.ts';
import { endLeftoverDaemons } from '#adapters/dir/storage-daemon.ts';
import { flushExport } from '#adapters/nbd/nbd-client.ts';
import { connectQmp } from '#adapters/qmp/qmp-client.ts';
import { createZfsStorage, type ZfsStorage } from '#adapters/zfs/zfs-storage.ts';
import { incomingStreamName } from '#adapters/zfs/incoming.ts';
import type { ReplicaPoint } from '#core/guest/guest-record.ts';
import { snapshotName } from '#core/storage/zfs/names.ts';
import { imageUser } from './dir-rig.ts';
import { disks, piece, type StorageBench, vmid } from './storage-suite.ts';
import { until } from './until.ts';

/**
 * The pools that tests may use: HOLDFAST_TEST_POOL, `tank` or `tank,bank` (a second one for what goes from pool to pool); undefined: this machine has
 * none. Everything below their datasets `holdfast-test` is destroyed.
 */
const [testPool, secondPool = testPool] = process.env['HOLDFAST_TEST_POOL']?.split(',') ?? [];
export const testPools = testPool === undefined ? undefined : ([testPool, secondPool ?? testPool] as const);

/** Why these tests are skipped elsewhere. */
export const withoutPool = 'no pool for tests: set HOLDFAST_TEST_POOL on a machine with OpenZFS (the full lab has some)';

export function zfs(...args: string[]): string {
  return execFileSync('zfs', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

let serial = 0;

/** A dataset of its own for one node of one test. */
export function makeRoot(name: string, pool = testPool): { root: string; [Symbol.dispose](): void } {
  serial += 1;
  const root = `${pool}/holdfast-test/${name}-${process.pid}-${serial}`;
  zfs('create', '-p', '-o', 'canmount=off', '-o', 'mountpoint=none', root);
  return { root, [Symbol.dispose]: () => destroyRoot(root) };
}

function destroyRoot(root: string): void {
  for (const line of zfs('list', '-Hp', '-r', '-t', 'snapshot', '-o', 'name,userrefs', root).split('\n')) {
    const [name = '', holds = '0'] = line.split('\t');
    if (Number(holds) === 0) continue;
    for (const held of zfs('holds', '-H', name).split('\n').filter(Boolean)) zfs('release', held.split('\t')[1] ?? '', name);
  }
  zfs('destroy', '-R', root);
}

export function openZfsStorage(
  root: string,
  directory: string,
  options: { newDisks: 'volume' | 'file'; logged?: string[] },
): ZfsStorage {
  mkdirSync(join(directory, 'run'), { recursive: true, mode: 0o711 });
  return createZfsStorage({
    root,
    run: join(directory, 'run/replica'),
    mounts: join(directory, 'mounts'),
    newDisks: options.newDisks,
    blockBytes: 16_384,
    user: imageUser,
    copyImage: async (from, to, { isZeroed }) => {
      const onto = isZeroed ? ['-n', '--target-is-zero'] : [];
      execFileSync('qemu-img', ['convert', '-q', ...onto, '-f', 'raw', '-O', 'raw', from, to]);
    },
    serveDisks: (label, chains) => serveDisks(join(directory, 'run/replica', label), chains, { user: imageUser, connectQmp }),
    async writeDisks(label, chains, content) {
      const deps = { user: imageUser, connectQmp, flushExport };
      return await writeContent(await serveWritable(join(directory, 'run/replica', label), chains, deps), content);
    },
    endServers: () => endLeftoverDaemons(join(directory, 'run/replica')),
    wallMs: () => Date.now(),
    log: (text) => void options.logged?.push(text),
  });
}

/** Where a disk of the bench can be written and read: its device, or its file where it is mounted. */
function pathOf(dataset: string): string {
  const [type = '', mountpoint = ''] = zfs('get', '-Hp', '-o', 'value', 'type,mountpoint', dataset).split('\n');
  return type === 'volume' ? `/dev/zvol/${dataset}` : join(mountpoint, 'disk.raw');
}

function writeAt(path: string, content: Uint8Array, offset: number): void {
  const file = openSync(path, 'r+');
  writeSync(file, content, 0, content.length, offset);
  fsyncSync(file);
  closeSync(file);
}

/** The rules' bench on a pool; `newDisks` says what disks are made as. */
export async function makeZfsBench(name: string, newDisks: 'volume' | 'file'): Promise<StorageBench> {
  const path = mkdtempSync(join(tmpdir(), `hf-${name}-`));
  chmodSync(path, 0o711); // daemons that are another user's come through
  const { root, [Symbol.dispose]: destroy } = makeRoot(name);
  const { root: source, [Symbol.dispose]: destroySource } = makeRoot('source');
  const logged: string[] = [];
  let storage = openZfsStorage(root, path, { newDisks, logged });
  await storage.recover();
  const diskOf = (of: string, disk: string): string => `${of}/vm-${vmid}/${disk}`;
  const guidOf = (snapshot: string): string => zfs('get', '-Hp', '-o', 'value', 'guid', snapshot).trim();

  /** Makes the other node's disk what the target has as its newest point, so that it can go on from there. */
  function prepareSource(disk: string, base: string | null, guid: string | null): void {
    const of = diskOf(source, disk);
    const has = spawnQuiet(['zfs', 'list', '-Hp', '-r', '-t', 'snapshot', '-o', 'guid', of]).split('\n');
    if (guid !== null && has.includes(guid)) return;
    spawnQuiet(['zfs', 'destroy', '-r', of]);
    spawnQuiet(['zfs', 'create', '-o', 'canmount=off', '-o', 'mountpoint=none', `${source}/vm-${vmid}`]);
    const size = String(disks.find((entry) => entry.name === disk)?.sizeBytes);
    const mount = join(path, `source-${disk}`);
    if (base !== null) {
      execFileSync('sh', ['-c', `zfs send -Lec ${base} | zfs receive -u ${of}`]);
      if (newDisks === 'file') zfs('set', `mountpoint=${mount}`, of);
    } else if (newDisks === 'volume') {
      zfs('create', '-s', '-V', size, '-o', 'volblocksize=16384', of);
    } else {
      zfs('create', '-o', `mountpoint=${mount}`, '-o', 'recordsize=16384', of);
      execFileSync('truncate', ['-s', size, join(mount, 'disk.raw')]);
    }
    if (newDisks === 'file') spawnQuiet(['zfs', 'mount', of]);
  }

  async function begin(point: ReplicaPoint, value: number, offset: number) {
    const state = await storage.readState(vmid);
    const held = await storage.readManifest(vmid);
    const newest = held?.role === 'replica' ? held.points.at(-1) : undefined;
    const incoming = [];
    for (const { name, sizeBytes } of disks) {
      const base = newest === undefined ? null : `${diskOf(root, name)}@${snapshotName(newest)}`;
      const guid = newest?.guids[name] ?? null;
      if (state.role !== 'primary') prepareSource(name, base, guid);
      const of = diskOf(source, name);
      const snapshot = `${of}@${snapshotName(point)}`;
      if (!spawnQuiet(['zfs', 'list', '-H', '-o', 'name', snapshot]).includes('@')) {
        const target = pathOf(of);
        await until(`${target} is there`, 15_000, () => spawnQuiet(['ls', target]) !== '');
        writeAt(target, piece(value), offset);
        zfs('snapshot', snapshot);
      }
      incoming.push({ name, sizeBytes, kind: newDisks, base: guid, to: guidOf(snapshot), isRest: false });
    }
    const desk = await storage.beginIncoming({ vmid, peer: 'n1', point, disks: incoming, anchors: [] });
    for (const { name, base } of incoming) {
      const of = diskOf(source, name);
      const from = base === null ? [] : ['-i', findByGuid(of, base)];
      await pipeTo(
        ['send', '-Lec', ...from, `${of}@${snapshotName(point)}`],
        join(path, 'run/replica', incomingStreamName(vmid, 'n1', name)),
      );
      await until(`${name} is taken in`, 30_000, () => desk.received(name));
    }
    const about = { source: 'n1', pointAtMs: point.seq * 1000, appliedAtMs: point.seq * 1000 + 1, configSha256: 'c0' };
    const lastCycle = { kind: 'delta' as const, bytes: 0, tookMs: 0, pausedMs: 0 };
    return { seal: () => desk.seal({ ...about, lastCycle }) };
  }

  return {
    path,
    storage,
    logged,
    begin,
    async write(value, offset) {
      const manifest = await storage.readManifest(vmid);
      await storage.openPrimary(vmid, manifest?.generation ?? 0);
      writeAt(pathOf(diskOf(root, 'disk0')), piece(value), offset);
    },
    async readByte(offset) {
      const manifest = await storage.readManifest(vmid);
      if (manifest?.role === 'primary') return readByteAt(pathOf(diskOf(root, 'disk0')), offset);
      const [file = ''] = await storage.exportPoint(vmid, join(path, 'look'));
      return readByteAt(file, offset);
    },
    async receive(point, value, offset) {
      const incoming = await begin(point, value, offset);
      await incoming.seal();
    },
    async takePoint(point) {
      await storage.source.take(vmid, point, { atMs: Date.now(), kind: 'crash' });
    },
    async restart() {
      await storage.closeAll(); // its processes die with it: their pipe is closed
      storage = openZfsStorage(root, path, { newDisks, logged });
      await storage.recover();
      return storage;
    },
    async [Symbol.asyncDispose]() {
      await storage.closeAll();
      for (const end of [destroy, destroySource]) await until('the datasets are free', 20_000, () => tryTo(end));
      rmSync(path, { recursive: true, force: true });
    },
  };
}

function tryTo(work: () => void): boolean {
  try {
    work();
    return true;
  } catch {
    return false;
  }
}

function readByteAt(path: string, offset: number): number {
  const buffer = Buffer.alloc(4096);
  const file = openSync(path, 'r');
  readSync(file, buffer, 0, 4096, Math.floor(offset / 4096) * 4096);
  closeSync(file);
  return buffer[offset % 4096] ?? -1;
}

function spawnQuiet([program = '', ...args]: string[]): string {
  try {
    return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  } catch {
    return '';
  }
}

function findByGuid(dataset: string, guid: string): string {
  const lines = zfs('list', '-Hp', '-r', '-t', 'snapshot', '-o', 'name,guid', dataset).split('\n');
  const found = lines.map((line) => line.split('\t')).find(([, held]) => held === guid)?.[0];
  if (found === undefined) throw new Error(`${dataset} has no snapshot ${guid}`);
  return found;
}

/** Sends a stream into a socket of the storage, as the relay would. */
export async function pipeTo(args: string[], path: string, limitBytes = Number.POSITIVE_INFINITY): Promise<void> {
  const child = spawn('zfs', args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const socket = connect(path);
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  socket.on('error', () => {});
  let bytes = 0;
  for await (const chunk of child.stdout) {
    const whole = chunk as Buffer;
    const part = whole.subarray(0, Math.max(0, limitBytes - bytes));
    bytes += part.length;
    if (part.length > 0 && !socket.write(part))
      await new Promise<void>((resolve) => socket.once('drain', resolve).once('close', resolve));
    if (bytes >= limitBytes) break;
  }
  child.kill();
  socket.end();
  await closed;
}
