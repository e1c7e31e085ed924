import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { connectQmp } from '#adapters/qmp/qmp-client.ts';
import { isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { Qmp, QmpEvent } from '#ports/qmp.ts';

const startMs = 20_000;

async function makeFolder(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'hf-qmp-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

function spawnPart(t: TestContext, command: string, args: string[]): ChildProcess {
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const gone = new Promise((resolve) => child.once('exit', resolve));
  t.after(async () => {
    child.kill('SIGKILL');
    await gone;
  });
  return child;
}

function spawnQemu(t: TestContext, socketPath: string): ChildProcess {
  const args = '-machine none -nodefaults -no-user-config -display none -S'.split(' ');
  return spawnPart(t, 'qemu-system-x86_64', [...args, '-qmp', `unix:${socketPath},server=on,wait=off`]);
}

/** Connects as soon as the socket is there. */
async function connectWhenReady(t: TestContext, socketPath: string): Promise<Qmp> {
  const untilMs = performance.now() + startMs;
  for (;;) {
    try {
      const qmp = await connectQmp(socketPath, { deadlineMs: startMs });
      t.after(() => qmp.close());
      return qmp;
    } catch (error) {
      if (!isAppError(error, 'unavailable') || performance.now() > untilMs) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

/** A peer that greets, then gives each line to `answer`. */
async function listenAsFake(t: TestContext, answer: (line: string, socket: Socket) => void): Promise<string> {
  const path = join(await makeFolder(t), 'fake.sock');
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.write('{"QMP": {"version": {}, "capabilities": []}}\r\n');
    socket.on('data', (data) =>
      data
        .toString()
        .trim()
        .split('\n')
        .forEach((line) => answer(line, socket)),
    );
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return path;
}

const idOf = (line: string) => (JSON.parse(line) as { id: number }).id;
const isHandshake = (line: string) => line.includes('qmp_capabilities');

test('QEMU answers, refuses in its own words, and sends events', async (t) => {
  const socketPath = join(await makeFolder(t), 'qmp.sock');
  const qemu = spawnQemu(t, socketPath);
  const qmp = await connectWhenReady(t, socketPath);
  assert.deepEqual(await qmp.execute('query-name'), {});
  await assert.rejects(qmp.execute('no-such-command'), (error: unknown) => {
    assert.ok(isAppError(error, 'conflict'));
    assert.match(error.message, /no-such-command: The command no-such-command has not been found \(CommandNotFound\)/);
    return true;
  });
  const shutdown = qmp.waitForEvent((event) => event.event === 'SHUTDOWN', { deadlineMs: 5_000 });
  await qmp.execute('quit');
  const event = await shutdown;
  assert.equal(event.data['reason'], 'host-qmp-quit');
  assert.ok(Math.abs(event.timestampMs - Date.now()) < 60_000);
  await qmp.closed;
  assert.ok(qemu.exitCode === null || qemu.exitCode === 0);
  await assert.rejects(qmp.execute('query-name'), (error: unknown) => isAppError(error, 'unavailable'));
});

test('a pipeline is answered in its order, each command by result or refusal', async (t) => {
  const socketPath = join(await makeFolder(t), 'qmp.sock');
  spawnQemu(t, socketPath);
  const qmp = await connectWhenReady(t, socketPath);
  const outcomes = await qmp.pipeline([
    { execute: 'object-add', arguments: { 'qom-type': 'iothread', id: 'one' } },
    { execute: 'object-add', arguments: { 'qom-type': 'iothread', id: 'one' } },
    { execute: 'query-iothreads' },
    { execute: 'object-del', arguments: { id: 'one' } },
    { execute: 'query-iothreads' },
  ]);
  const shown = outcomes.map((outcome) =>
    'ok' in outcome ? (Array.isArray(outcome.ok) ? outcome.ok.length : 'ok') : outcome.error.message.replace(/\(.*/, ''),
  );
  assert.deepEqual(shown, ['ok', "object-add: attempt to add duplicate property 'one' to object ", 1, 'ok', 0]);
});

test('a long answer (the whole schema) arrives whole', async (t) => {
  const socketPath = join(await makeFolder(t), 'qmp.sock');
  spawnQemu(t, socketPath);
  const qmp = await connectWhenReady(t, socketPath);
  const schema = await qmp.execute<unknown[]>('query-qmp-schema');
  assert.ok(schema.length > 500, `${schema.length} entries`);
});

test('qemu-storage-daemon is served by the same client, and takes the next client when one leaves', async (t) => {
  const socketPath = join(await makeFolder(t), 'qsd.sock');
  const chardev = `socket,id=c,path=${socketPath},server=on,wait=off`;
  spawnPart(t, 'qemu-storage-daemon', ['--chardev', chardev, '--monitor', 'chardev=c']);
  const first = await connectWhenReady(t, socketPath);
  await first.execute('blockdev-add', { driver: 'null-co', 'node-name': 'n', size: 1 << 20 });
  // The monitor serves one client: the second gets no greeting while the first is there.
  await assert.rejects(connectQmp(socketPath, { deadlineMs: 200 }), (error: unknown) => isAppError(error, 'timeout'));
  first.close();
  const second = await connectWhenReady(t, socketPath);
  const nodes = await second.execute<{ 'node-name': string }[]>('query-named-block-nodes');
  assert.deepEqual(
    nodes.map((node) => node['node-name']),
    ['n'],
  );
});

test('answers out of order reach their own commands', async (t) => {
  const held: string[] = [];
  const path = await listenAsFake(t, (line, socket) => {
    if (isHandshake(line)) return socket.write(`{"return": {}, "id": ${idOf(line)}}\n`);
    held.unshift(`{"return": "${(JSON.parse(line) as { execute: string }).execute}", "id": ${idOf(line)}}\n`);
    if (held.length === 3) held.forEach((answer) => socket.write(answer));
  });
  const qmp = await connectQmp(path, { deadlineMs: 2_000 });
  t.after(() => qmp.close());
  const answers = await qmp.pipeline([{ execute: 'a' }, { execute: 'b' }, { execute: 'c' }]);
  assert.deepEqual(answers, [{ ok: 'a' }, { ok: 'b' }, { ok: 'c' }]);
});

test('a command without an answer times out, and its late answer disturbs nobody', async (t) => {
  let late: (() => void) | null = null;
  const path = await listenAsFake(t, (line, socket) => {
    const answer = `{"return": {}, "id": ${idOf(line)}}\n`;
    if (line.includes('"slow"')) late = () => socket.write(answer);
    else socket.write(answer);
  });
  const qmp = await connectQmp(path, { deadlineMs: 2_000 });
  t.after(() => qmp.close());
  await assert.rejects(qmp.execute('slow', {}, { deadlineMs: 30 }), (error: unknown) => isAppError(error, 'timeout'));
  assert.ok(late !== null);
  (late as () => void)();
  assert.deepEqual(await qmp.execute('next'), {});
});

test('an answer to nothing, a flood without a line end, and no JSON end the connection', async (t) => {
  const spoilt = {
    'answer to nothing': '{"return": {}, "id": 999}\n',
    flood: 'x'.repeat(limits.jsonLineBytes + 1),
    'no JSON': 'hello\n',
  };
  for (const [name, bytes] of Object.entries(spoilt)) {
    const path = await listenAsFake(t, (line, socket) => {
      socket.write(isHandshake(line) ? `{"return": {}, "id": ${idOf(line)}}\n` : bytes);
    });
    const qmp = await connectQmp(path, { deadlineMs: 2_000 });
    const events: QmpEvent[] = [];
    qmp.onEvent((event) => events.push(event));
    await assert.rejects(qmp.execute('x'), (error: unknown) => isAppError(error, 'unavailable'), name);
    await qmp.closed;
    assert.deepEqual(events, []);
  }
});

test('nothing listening is unavailable, a silent peer is a timeout', async (t) => {
  const folder = await makeFolder(t);
  await assert.rejects(connectQmp(join(folder, 'none.sock'), { deadlineMs: 500 }), (error: unknown) =>
    isAppError(error, 'unavailable'),
  );
  const silent = createServer(() => {});
  await new Promise<void>((resolve) => silent.listen(join(folder, 'silent.sock'), resolve));
  t.after(() => silent.close());
  await assert.rejects(connectQmp(join(folder, 'silent.sock'), { deadlineMs: 50 }), (error: unknown) =>
    isAppError(error, 'timeout'),
  );
});
