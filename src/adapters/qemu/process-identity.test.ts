import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAlive, parseStartTicks, readStartTicks } from './process-identity.ts';

const stat = (name: string, state: string) =>
  `812 (${name}) ${state} 1 812 812 0 -1 4194560 1 0 0 0 5 3 0 0 20 0 4 0 77001 1048576 900 18446744073709551615`;

test('the start time is found behind any name', () => {
  for (const name of ['qemu-system-x86', 'a) R 1 (b', '']) assert.equal(parseStartTicks(stat(name, 'S')), 77001);
});

test('a zombie is gone', () => {
  assert.equal(parseStartTicks(stat('qemu', 'Z')), null);
});

test('the same number with another start time is another process', () => {
  const startTicks = readStartTicks(process.pid);
  assert.ok(startTicks !== null);
  assert.equal(isAlive({ pid: process.pid, startTicks }), true);
  assert.equal(isAlive({ pid: process.pid, startTicks: startTicks - 1 }), false);
});
