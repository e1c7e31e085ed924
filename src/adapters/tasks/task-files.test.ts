import assert from 'node:assert/strict';
import { appendFileSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { formatUpid } from '#core/task/upid.ts';
import { openTasks } from './task-files.ts';

function open(folder: string): ReturnType<typeof openTasks> {
  return openTasks({ folder, node: 'n1', process: { pid: 7, startTicks: 9 }, nowMs: () => 1_700_000_000_000 });
}

test('a task has a log, an end, and outlives its process', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-tasks-'));
  const tasks = open(folder);
  const good = tasks.start({ type: 'verify', id: 'a/b', who: 'u@pbs' }, async ({ note, warn }) => {
    await Promise.resolve();
    note('one\ntwo');
    warn('three');
  });
  const bad = tasks.start({ type: 'prune', id: null, who: 'u@pbs!t' }, () => Promise.reject(new Error('no\nluck')));
  assert.equal(tasks.read(good).end, null);
  assert.equal((await tasks.wait(good)).end?.status, 'WARNINGS: 1');
  assert.equal((await tasks.wait(bad)).end?.status, 'no\nluck');
  const log = await tasks.readLog(good, 0, 10);
  assert.deepEqual(
    log.lines.map((line) => line.slice(26)),
    ['one two', 'warning: three', 'TASK WARNINGS: 1'],
  );
  assert.deepEqual(await tasks.readLog(good, 1, 1), { lines: [log.lines[1]], total: 3 });
  assert.throws(() => tasks.read('UPID:other'), /does not exist/);

  const later = open(folder);
  assert.deepEqual(
    later.list().map(({ type, end }) => [type, end?.status]),
    [
      ['prune', 'no luck'],
      ['verify', 'WARNINGS: 1'],
    ],
  );
  rmSync(folder, { recursive: true });
});

test('one that is asked to end does; one that a crash cut off says so', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-tasks-'));
  const tasks = open(folder);
  const waiting = tasks.start({ type: 'gc', id: 's', who: 'u@pbs' }, ({ signal }) => {
    return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)));
  });
  tasks.abort(waiting);
  assert.equal((await tasks.wait(waiting)).end?.status, 'aborted');
  tasks.abort(waiting);
  const head = { node: 'n1', pid: 8, processStart: 1, number: 1, startSeconds: 5, type: 'sync', id: null, who: 'u@pbs' };
  appendFileSync(join(folder, 'aa.log'), `${formatUpid(head)}\n2026: begun\n`);
  writeFileSync(join(folder, 'bb.log'), 'UPID:to');
  for (const _ of [1, 2]) assert.match(open(folder).read(formatUpid(head)).end?.status ?? '', /the server ended/);
  assert.equal(readdirSync(folder).length, 2, 'a torn log is gone');
  rmSync(folder, { recursive: true });
});
