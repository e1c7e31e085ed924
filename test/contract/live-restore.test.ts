import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { existsSync, globSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, type TestContext, test } from 'node:test';
import { createClock } from '#adapters/clock/boot-clock.ts';
import { formatHex } from '#core/backup/bytes.ts';
import { digestAt, parseIndex } from '#core/backup/chunk-index.ts';
import { chunkPath } from '#core/backup/names.ts';
import { guestDataPaths } from '#core/guest/guest-paths.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { type LiveLimits, liveLimits } from '#core/guest-backup/live-limits.ts';
import type { BackupTarget } from '#core/guest-backup/records.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaResource } from '#core/ha/records.ts';
import type { RequestRecord, RestoreOrder } from '#core/ha/requests.ts';
import { currentDepths } from '#core/storage/manifest.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import { startBackupPlace, waitForPort, type BackupPlace } from './backup-command-parts.ts';
import { type AgentRig, buildAgentRig, type RigAgent } from './checker/agent-rig.ts';
import { answered, ask, backup, put, read, serveBackups, vault } from './checker/backup-agent.ts';
import { readNumbers, writeNumberDisk } from './checker/number-guest.ts';
import { startSlowWay, type SlowWay } from './checker/slow-way.ts';
import { until } from './checker/until.ts';

/** Guests that run while their disks stream in: a real QEMU, a real backup server, and a way to it that can be made slow or cut. */
const mib = 1 << 20;
const chunkBytes = 4 * mib;
const chunks = 20;
const disk = { name: 'disk0', sizeBytes: chunks * chunkBytes - 2 * mib };
const [old, fresh] = [100, 201];
const timing = { ...liveLimits, retryMs: 200, retryMaxMs: 500, badChunkMs: 500, saveMs: 200, lookMs: 200 };

let place: BackupPlace;
/** The key of what is backed up. */
let keyFile: string;
/** What the backup holds; null: there is none yet. */
let image: Buffer | null = null;
const servers: ChildProcess[] = [];
before(async () => {
  place = await startBackupPlace();
  keyFile = join(place.folder, 'work/key.json');
  assert.equal((await place.run(['key', 'create', 'key.json', '--kdf', 'none'])).code, 0);
});
after(async () => {
  for (const server of servers) server.kill('SIGKILL');
  await place[Symbol.asyncDispose]();
});

/** Beyond the first MiB, which the guest writes to, all is chance but for a stamp at the start of each chunk and a chunk of zeros. */
function makeImage(path: string): Buffer {
  writeNumberDisk(path);
  const content = Buffer.alloc(disk.sizeBytes);
  const head = readFileSync(path);
  randomFillSync(content, head.length);
  head.copy(content);
  for (let chunk = 1; chunk < chunks; chunk += 1) content.fill(chunk, chunk * chunkBytes, chunk * chunkBytes + 512);
  content.fill(0, 3 * chunkBytes, 4 * chunkBytes);
  writeFileSync(path, content);
  return content;
}

type Stage = { rig: AgentRig; agent: RigAgent; way: SlowWay; stop: AbortController; timing: LiveLimits };

/** n1 reaches the backup of a guest by a way of its own. `readMs`: how long a read waits before the guest is paused. */
async function prepare(t: TestContext, names: string[], readMs: number = liveLimits.readMs): Promise<Stage> {
  const stops: AbortController[] = [];
  t.after(() => stops.forEach((stop) => stop.abort())); // before all else is taken away
  const rig = await buildAgentRig(t, names);
  const way = await startSlowWay(place.port);
  t.after(() => way[Symbol.asyncDispose]());
  const agent = rig.startAgent('n1');
  const { stop } = serveBackups(rig, agent, createClock(), { ...timing, readMs });
  stops.push(stop);
  const direct: BackupTarget = { ...vault(place), keyFile };
  await put(rig, keys.backupTarget('vault'), direct);
  await put(rig, keys.backupTarget('far'), { ...direct, id: 'far', repository: `u@pbs!t@127.0.0.1:${way.port}:store` });
  image ??= await backUpOld(rig);
  return { rig, agent, way, stop, timing: { ...timing, readMs } };
}

async function backUpOld(rig: AgentRig): Promise<Buffer> {
  const path = join(rig.rig.path, 'image.raw');
  const content = makeImage(path);
  await rig.node('n1').storage.create(old, 1, [{ ...disk, importFile: path }]);
  const config = { cores: 1, memoryMb: 64, disks: [disk], nics: [], boot: null };
  await put(rig, keys.haResource(old), { vmid: old, want: 'stopped', maxDataAgeMs: null } satisfies HaResource);
  const record: GuestRecord = { vmid: old, name: 'old', config, home: 'n1', generation: 1, order: null };
  await put(rig, keys.guest(old), record);
  const done = await answered(rig, await ask(rig, { ...backup, vmid: old }));
  assert.equal(done.state, 'done', JSON.stringify(done));
  return content;
}

/** The guest is made and may be started. Returns the request's number. */
async function begin({ rig }: Stage): Promise<string> {
  const order: RestoreOrder = {
    kind: 'guest-restore',
    vmid: fresh,
    target: 'far',
    from: { vmid: old, atSeconds: null },
    name: 'again',
    bridge: null,
    keepMacs: false,
    want: 'started',
    live: true,
  };
  const id = await ask(rig, order);
  await until('the guest is made', 60_000, async () => {
    const request = await read<RequestRecord>(rig, keys.request(id));
    if (request?.state === 'failed') throw new Error(request.error.message);
    return await read<GuestRecord>(rig, keys.guest(fresh));
  });
  rig.rig.record.home.set(fresh, { node: 'n1', generation: 1 });
  return id;
}

async function start({ rig, agent }: Stage): Promise<RunningGuest> {
  const status = await rig.ended(fresh, await rig.order(fresh, { kind: 'run', promote: null }));
  assert.deepEqual([status.state, status.end?.result], ['running', 'ok']);
  return agent.loop.running().find((guest) => guest.vmid === fresh)!;
}

async function stopGuest({ rig }: Stage): Promise<void> {
  await put(rig, keys.haResource(fresh), { vmid: fresh, want: 'stopped', maxDataAgeMs: null } satisfies HaResource);
  await rig.ended(fresh, await rig.order(fresh, { kind: 'stop', timeoutMs: 0, promote: null }));
}

async function copyOf({ rig }: Stage) {
  return (await rig.node('n1').storage.arrivals?.list())?.find((copy) => copy.vmid === fresh) ?? null;
}

/** Reads through the guest's disk. Returns QEMU's own words, which go to its log. */
async function readThrough({ rig }: Stage, guest: RunningGuest, at: number, pattern: number): Promise<string> {
  const log = guestDataPaths(rig.node('n1').directory, fresh).qemuLog;
  const before = readFileSync(log, 'utf8').length;
  const line = `qemu-io act-disk0 "read -P ${pattern} ${at} 512"`;
  await guest.qmp.execute('human-monitor-command', { 'command-line': line }, { deadlineMs: 20_000 });
  return readFileSync(log, 'utf8').slice(before);
}

async function nodesOf(guest: RunningGuest): Promise<string[]> {
  const found = await guest.qmp.execute<{ 'node-name': string }[]>('query-named-block-nodes', { flat: true });
  return found.map((node) => node['node-name']);
}

async function runState(guest: RunningGuest): Promise<string> {
  return (await guest.qmp.execute<{ status: string }>('query-status')).status;
}

async function told({ rig }: Stage, id: string): Promise<string> {
  const request = await read<RequestRecord>(rig, keys.request(id));
  return request?.state === 'running' ? request.progress.text : JSON.stringify(request);
}

/** What lies on the node now: the guest's numbers, and all else as in the backup. */
async function checkDisk({ rig }: Stage, name = 'n1'): Promise<ReturnType<typeof readNumbers>> {
  const out = join(rig.rig.path, `out-${Math.random()}`);
  mkdirSync(out);
  const [path = ''] = await rig.node(name).storage.exportImage(fresh, currentDepths, out);
  const content = readFileSync(path);
  assert.ok(
    image !== null && content.subarray(mib).equals(image.subarray(mib)),
    'all that the guest did not write is as in the backup',
  );
  const numbers = readNumbers(path);
  assert.ok(numbers.consistent, JSON.stringify(numbers));
  return numbers;
}

test('a guest runs and writes while its disks stream in, encrypted; then it is like any other', async (t) => {
  const stage = await prepare(t, ['n1', 'n2']);
  const { rig, way } = stage;
  way.rate = 4 * mib;
  const id = await begin(stage);
  const guest = await start(stage);
  assert.match(await readThrough(stage, guest, (chunks - 1) * chunkBytes, chunks - 1), /^read 512\/512/);
  assert.match(await readThrough(stage, guest, 3 * chunkBytes + 1024, 0), /^read 512\/512/);
  assert.equal((await copyOf(stage))?.arrival.isComplete, false, 'it has read the end before all was here');
  assert.ok((await nodesOf(guest)).includes('live-disk0'));
  await assert.rejects(rig.node('n1').replication.syncNow(fresh, 'n2'), /still stream in from a backup/);
  const early = await answered(rig, await ask(rig, { ...backup, vmid: fresh }));
  assert.match(JSON.stringify(early), /still stream in from a backup/);
  assert.match(await told(stage, id), /its disks stream in/);
  way.rate = Number.POSITIVE_INFINITY;

  const done = await answered(rig, id);
  assert.equal(done.state, 'done', JSON.stringify(done));
  const present = await nodesOf(guest);
  assert.ok(present.includes('base-disk0') && !present.includes('live-disk0'), present.join(' '));
  assert.equal(await runState(guest), 'running');
  assert.equal((await copyOf(stage))?.arrival.isComplete, true);
  const first = rig.rig.record.replicas.get(`${fresh}/n2`);
  await until('its copy is on n2', 60_000, () => rig.rig.record.replicas.get(`${fresh}/n2`));
  assert.equal(first, undefined, 'no copy before that');
  const before = await checkDisk(stage, 'n2');
  await rig.node('n1').replication.syncNow(fresh, 'n2');
  assert.ok((await checkDisk(stage, 'n2')).newest > before.newest);

  await stopGuest(stage);
  const stopped = await checkDisk(stage);
  await put(rig, keys.haResource(fresh), { vmid: fresh, want: 'started', maxDataAgeMs: null } satisfies HaResource);
  await start(stage);
  await until('it goes on', 20_000, async () => (await checkDisk(stage)).newest > stopped.newest + 5);
  const own = join(rig.node('n1').directory, 'dir', String(fresh), 'disk0-own.qcow2');
  const header = JSON.parse(execFileSync('qemu-img', ['info', '-U', '--output', 'json', own], { encoding: 'utf8' })) as object;
  assert.partialDeepStrictEqual(header, { 'backing-filename': 'disk0-base.raw', 'backing-filename-format': 'raw' });
});

test('its server dies before its first read: the guest is paused, is not moved, and goes on when the server is back', async (t) => {
  const stage = await prepare(t, ['n1', 'n2'], 1_000);
  stage.way.rate = mib;
  const id = await begin(stage);
  process.kill(place.serverPid, 'SIGKILL');
  const guest = await start(stage);
  await until('it is paused', 20_000, async () => (await runState(guest)) === 'io-error');
  await until('that is told', 10_000, async () => /paused until .* tried again/.test(await told(stage, id)));
  const moved = await stage.rig.ended(fresh, await stage.rig.order(fresh, { kind: 'move', to: 'n2', promote: null }));
  assert.deepEqual([moved.end?.result, /still stream in from a backup/.test(moved.because)], ['failed', true]);
  await stage.rig.order(fresh, { kind: 'run', promote: null });
  stage.way.rate = Number.POSITIVE_INFINITY;
  const main = join(import.meta.dirname, '../../src/programs/backup/main.ts');
  const server = spawn(process.execPath, [main, '--config', join(place.folder, 'server.toml')], { stdio: 'ignore' });
  servers.push(server);
  await waitForPort(place.port, server);
  const done = await answered(stage.rig, id);
  assert.equal(done.state, 'done', JSON.stringify(done));
  await until('it runs on', 10_000, async () => (await runState(guest)) === 'running');
  await until('it writes', 20_000, async () => (await checkDisk(stage)).newest > 5);
});

test('its agent dies in mid-stream and it is stopped after that: the next agent fills the rest, and fetches nothing twice', async (t) => {
  const stage = await prepare(t, ['n1']);
  const { rig, way, agent, stop } = stage;
  way.rate = 8 * mib;
  const id = await begin(stage);
  const guest = await start(stage);
  const half = (chunks / 2) * chunkBytes;
  await until('half of it is here', 30_000, () => way.bytes > half);
  stop.abort();
  await agent.crash();
  way.cut();
  const beforeBytes = way.bytes;
  way.rate = Number.POSITIVE_INFINITY;
  const next = rig.startAgent('n1');
  const again = serveBackups(rig, next, createClock(), stage.timing);
  t.after(() => again.stop.abort());
  await until('it is found', 20_000, () => next.loop.running().some(({ pid }) => pid === guest.pid));
  await stopGuest({ ...stage, agent: next });
  assert.equal((await copyOf(stage))?.arrival.isComplete, false);
  way.open();
  const done = await answered(rig, id);
  assert.equal(done.state, 'done', JSON.stringify(done));
  // What was under way when it died, and what had not been written down, comes again.
  const againBytes = way.bytes - beforeBytes;
  assert.ok(againBytes < disk.sizeBytes - half + 10 * chunkBytes, `${againBytes} bytes after ${beforeBytes}`);
  const stopped = await checkDisk(stage);
  await put(rig, keys.haResource(fresh), { vmid: fresh, want: 'started', maxDataAgeMs: null } satisfies HaResource);
  const restarted = await start({ ...stage, agent: next });
  assert.ok(!(await nodesOf(restarted)).includes('live-disk0'));
  await until('it goes on', 20_000, async () => (await checkDisk(stage)).newest > stopped.newest + 5);
});

test('a chunk that is damaged on the server stops nobody who does not read it; a withdrawn restore leaves nothing', async (t) => {
  const stage = await prepare(t, ['n1'], 1_000);
  const { rig } = stage;
  const damaged = await damageChunk(7);
  const id = await begin(stage);
  const guest = await start(stage);
  await until('all else is here', 60_000, async () =>
    /1 chunk\(s\) cannot be had yet: disk0 at 29360128: /.test(await told(stage, id)),
  );
  assert.equal(await runState(guest), 'running');
  assert.match(await readThrough(stage, guest, 8 * chunkBytes, 8), /^read 512\/512/);
  assert.match(await readThrough(stage, guest, 7 * chunkBytes, 7), /Input\/output error/);
  damaged.mend();
  await until('it came after all', 20_000, async () => (await copyOf(stage))?.arrival.isComplete === true);
  assert.equal((await answered(rig, id)).state, 'done');

  await stopGuest(stage);
  await rig.store.commit([], [{ key: keys.request(id), value: null }]);
  await answered(rig, await ask(rig, { kind: 'guest-delete', vmid: fresh }));
  stage.way.rate = 4 * mib;
  const second = await begin(stage);
  const other = await start(stage);
  await rig.store.commit([], [{ key: keys.request(second), value: null }]);
  await other.exited;
  await until('it is gone', 20_000, async () => (await read<GuestRecord>(rig, keys.guest(fresh))) === null);
  await until('its disks are gone', 20_000, async () => !existsSync(join(rig.node('n1').directory, 'dir', String(fresh))));
  assert.ok((await rig.store.read(keys.guestTombstone(fresh))) !== null);
  assert.ok(!existsSync(join(rig.node('n1').run, 'arrivals', `${fresh}.nbd`)));
});

/** Spoils what the server holds of a chunk of the backup, until it is mended. */
async function damageChunk(chunk: number): Promise<{ mend(): void }> {
  const [folder = ''] = globSync(join(place.store, 'vm', String(old), '*'));
  const index = parseIndex('fixed', readFileSync(join(folder, 'drive-disk0.img.fidx')), 'index');
  const path = join(place.store, chunkPath(formatHex(digestAt(index, chunk))));
  const good = readFileSync(path);
  const bad = Buffer.from(good);
  bad[bad.length - 1]! ^= 1;
  writeFileSync(path, bad);
  return { mend: () => writeFileSync(path, good) };
}
