import { openSync, readSync } from 'node:fs';
import { assert } from '#base/assert.ts';
import type { Clock } from '#ports/clock.ts';

/**
 * Time of this machine. `bootMs` is the kernel's CLOCK_BOOTTIME as /proc/uptime prints it (proc(5)): it never steps, goes on during
 * suspend, and is cut to 10 ms (`clockStepMs`), which whoever compares with a limit gives away. Read from one descriptor: no path
 * lookup and no native code on the way to a pet.
 */
export function createClock(): Clock {
  const fd = openSync('/proc/uptime', 'r');
  const buffer = Buffer.alloc(64);
  return {
    bootMs() {
      const length = readSync(fd, buffer, 0, buffer.length, 0);
      const seconds = Number.parseFloat(buffer.toString('latin1', 0, length));
      assert(Number.isFinite(seconds), '/proc/uptime does not begin with a number');
      return Math.round(seconds * 1_000);
    },
    wallMs: () => Date.now(),
  };
}
