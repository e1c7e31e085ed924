/**
 * One node's hardware watchdog: a process outside the node that takes the node's power when its device was not petted in time.
 * It lives exactly as long as its machine has power, so a boot always begins with a disarmed one.
 *
 *   node --(bytes)--> FIFO <device> --> countdown --(overdue)--> link down, cgroup.kill
 *   node --(seconds)--> <device>.d/settimeout --> <device>.d/timeout (what it really is)
 *
 * Arguments: --device FIFO --group CONTROL-GROUP-OF-THE-NODE --link PORT-OF-THE-SWITCH. Must run in the switch's network
 * namespace. Writes one JSON event a line to standard output.
 */
import {
  closeSync,
  constants,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  statSync,
  watch,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { assert } from '#base/assert.ts';
import { labLimits } from '#lab/lab-limits.ts';
import { openLinkPower } from '#lab/link-power.ts';
import { applyBytes, applyTimeout, type Countdown, disarmed, timeLeftMs } from '#lab/watchdog/countdown.ts';

const { values: options } = parseArgs({
  options: { device: { type: 'string' }, group: { type: 'string' }, link: { type: 'string' } },
});
assert(options.device !== undefined && options.group !== undefined && options.link !== undefined, 'watchdog: argument missing');
const settings = `${options.device}.d`;
const link = openLinkPower(options.link);
// Opened while all is quiet: nothing but one write stands between the deadline and the kill.
const killFd = openSync(join(options.group, 'cgroup.kill'), 'w');
// Reading and writing at once: the FIFO then never reports its end when the guard closes it. A second descriptor serves the last
// look before firing, because the first belongs to the event loop.
const device = new Socket({
  fd: openSync(options.device, constants.O_RDWR | constants.O_NONBLOCK),
  readable: true,
  writable: false,
});
const lastLook = openSync(options.device, constants.O_RDWR | constants.O_NONBLOCK);

let countdown: Countdown = disarmed;
let timer: NodeJS.Timeout | undefined;
let appliedStamp = '';

/** CLOCK_MONOTONIC: on the hosts the lab runs on there is no suspend, so it is the boot-time clock. */
function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

function report(event: Record<string, unknown>): void {
  writeSync(1, `${JSON.stringify({ atMs: Date.now(), ...event })}\n`);
}

function adopt(next: Countdown): void {
  const before = countdown;
  countdown = next;
  clearTimeout(timer);
  const leftMs = timeLeftMs(next, nowMs());
  if (leftMs !== null) timer = setTimeout(onDeadline, Math.max(leftMs, 0));
  if (next.armed && (!before.armed || before.timeoutMs !== next.timeoutMs)) {
    report({ event: 'watchdog-armed', timeoutMs: next.timeoutMs });
  } else if (!next.armed && before.armed) {
    report({ event: 'watchdog-disarmed' });
  }
}

function onDeadline(): void {
  const leftMs = timeLeftMs(countdown, nowMs());
  if (leftMs === null) return;
  if (leftMs > 0) {
    timer = setTimeout(onDeadline, leftMs); // timers may be early by a fraction of a millisecond
    return;
  }
  const lateMs = -leftMs;
  if (lateMs > labLimits.watchdogLateMs) report({ event: 'watchdog-late', lateMs });
  // A pet may lie in the FIFO that the event loop had no chance to hand over; hardware would have seen it in time.
  const pending = readPending();
  if (pending.length > 0) adopt(applyBytes(countdown, pending, nowMs()));
  else fire(lateMs);
}

function fire(lateMs: number): void {
  const atMs = Date.now();
  const startMs = nowMs();
  const { timeoutMs, lastPetMs } = countdown;
  link.set('down');
  writeSync(killFd, '1');
  const killTookMs = nowMs() - startMs;
  countdown = disarmed;
  const lastPetAtMs = atMs - Math.round(startMs - lastPetMs);
  report({ atMs, event: 'watchdog-fired', timeoutMs, lastPetAtMs, lateMs, killTookMs });
}

function readPending(): Uint8Array {
  const bytes = Buffer.alloc(4096);
  try {
    return bytes.subarray(0, readSync(lastLook, bytes));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return new Uint8Array();
    throw error;
  }
}

function readSettings(): void {
  const path = join(settings, 'settimeout');
  try {
    const stat = statSync(path, { bigint: true });
    const stamp = `${stat.ino}:${stat.mtimeNs}:${stat.size}`;
    if (stamp === appliedStamp) return;
    const next = applyTimeout(countdown, readFileSync(path, 'utf8'), nowMs());
    if (next === null) return;
    appliedStamp = stamp;
    adopt(next);
    writeFileSync(join(settings, 'timeout.new'), `${next.timeoutMs / 1000}\n`);
    renameSync(join(settings, 'timeout.new'), join(settings, 'timeout'));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

device.on('data', (bytes: Buffer) => adopt(applyBytes(countdown, bytes, nowMs())));
const watcher = watch(settings, readSettings);
readSettings();
process.once('SIGTERM', () => {
  clearTimeout(timer);
  watcher.close();
  device.destroy();
  closeSync(lastLook);
  process.exit(0);
});
report({ event: 'ready' });
