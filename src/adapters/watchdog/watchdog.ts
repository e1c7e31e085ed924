import { closeSync, constants, openSync, readFileSync, renameSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { basename, join } from 'node:path';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { Watchdog } from '#ports/watchdog.ts';
import { magicCloseOption, readWatchdogOptions, readWatchdogSeconds, writeWatchdogSeconds } from './ioctl.ts';

/** What differs between a kernel device and the lab's stand-in: how the timeout is set and read, and what may keep it armed. */
type TimeoutControl = {
  /** Raises AppError unsupported when the device would not do its work after an unclean end of ours. */
  check(fd: number): void;
  set(fd: number, seconds: number): void;
  read(fd: number): number;
  /** True: a clean stop cannot disarm it. */
  isStuckArmed(): boolean;
};

/** Any byte but 'V' is a keep-alive (Documentation/watchdog/watchdog-api.rst). */
const petByte = Buffer.from([0]);
const disarmByte = Buffer.from('V');

/**
 * Opens and thereby ARMS AND PETS the watchdog at `device`, asks for `wantedTimeoutMs` (whole seconds) and reads back what it really
 * is. Opening is a pet: do it only when a pet is allowed. `whenRefused`: what becomes of a device that was opened and cannot be used:
 * `disarm` it, or `keep-armed` while guests may run that its countdown fences. A character device is driven as Linux documents; a FIFO with a folder
 * `<device>.d` beside it is the lab's stand-in (see README). Raises AppError missing, busy (somebody holds it), unavailable or
 * unsupported (no timeout control, or closing it unclean would disarm it).
 */
export function openWatchdog(
  device: string,
  wantedTimeoutMs: number,
  { whenRefused }: { whenRefused: 'disarm' | 'keep-armed' } = { whenRefused: 'disarm' },
): Watchdog {
  const control = findControl(device);
  const fd = openDevice(device);
  try {
    control.check(fd);
    control.set(fd, Math.ceil(wantedTimeoutMs / 1_000));
    const timeoutMs = control.read(fd) * 1_000;
    if (!(timeoutMs > 0)) throw new AppError('unsupported', `watchdog ${device} says its timeout is ${timeoutMs} ms`);
    writeDevice(device, fd, petByte, 'petting');
    return holdDevice(device, fd, timeoutMs, control);
  } catch (error) {
    // Without 'V' the countdown goes on: right while guests run, a boot loop on a host that runs nothing.
    if (whenRefused === 'disarm') tryWrite(fd, disarmByte);
    closeSync(fd);
    throw error;
  }
}

function holdDevice(device: string, fd: number, timeoutMs: number, control: TimeoutControl): Watchdog {
  let open = true;
  return {
    timeoutMs,
    pet() {
      if (!open) throw new AppError('conflict', `petting watchdog ${device} failed: it was closed`);
      writeDevice(device, fd, petByte, 'petting');
    },
    disarm() {
      if (!open) return;
      if (control.isStuckArmed()) {
        throw new AppError(
          'unsupported',
          `watchdog ${device} cannot be disarmed (nowayout); it must be petted until the host goes down`,
        );
      }
      writeDevice(device, fd, disarmByte, 'disarming');
      closeSync(fd);
      open = false;
    },
    leave() {
      if (!open) return;
      closeSync(fd);
      open = false;
    },
  };
}

function findControl(device: string): TimeoutControl {
  let kind;
  try {
    kind = statSync(device);
  } catch (error) {
    throw new AppError('missing', `watchdog ${device} is not there; load its driver or correct [watchdog] device`, {
      cause: error,
    });
  }
  if (kind.isCharacterDevice()) return createKernelControl(device);
  if (kind.isFIFO()) return createSidecarControl(device);
  throw new AppError('unsupported', `watchdog ${device} is neither a character device nor a FIFO`);
}

function openDevice(device: string): number {
  try {
    return openSync(device, constants.O_WRONLY | constants.O_NONBLOCK);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : null;
    if (code === 'EBUSY') throw new AppError('busy', `watchdog ${device} is held by another program`, { cause: error });
    throw new AppError('unavailable', `opening watchdog ${device} failed`, { cause: error });
  }
}

function writeDevice(device: string, fd: number, bytes: Buffer, what: string): void {
  try {
    writeSync(fd, bytes);
  } catch (error) {
    throw new AppError('unavailable', `${what} watchdog ${device} failed`, { cause: error });
  }
}

function tryWrite(fd: number, bytes: Buffer): void {
  try {
    writeSync(fd, bytes);
  } catch {
    // The error that brought us here is the one to report.
  }
}

function createKernelControl(device: string): TimeoutControl {
  return {
    check(fd) {
      // Without it the kernel disarms at any close, also when we are killed (drivers/watchdog/watchdog_dev.c, watchdog_release).
      if ((readWatchdogOptions(fd) & magicCloseOption) === 0) {
        throw new AppError(
          'unsupported',
          `watchdog ${device} disarms itself when its program dies (no magic close): it cannot fence`,
        );
      }
    },
    set: writeWatchdogSeconds,
    read: readWatchdogSeconds,
    isStuckArmed() {
      try {
        return readFileSync(`/sys/class/watchdog/${basename(device)}/nowayout`, 'utf8').trim() === '1';
      } catch {
        return false;
      }
    },
  };
}

/** The lab's stand-in: `<device>.d/settimeout` is ours to write, `<device>.d/timeout` is what its process made of it. Seconds. */
function createSidecarControl(device: string): TimeoutControl {
  const folder = `${device}.d`;
  let asked = Number.NaN;
  return {
    check() {},
    set(_fd, seconds) {
      asked = seconds;
      try {
        const temporary = join(folder, `.settimeout.${process.pid}`);
        writeFileSync(temporary, `${seconds}\n`);
        renameSync(temporary, join(folder, 'settimeout'));
      } catch (error) {
        throw new AppError('unavailable', `setting the timeout of watchdog ${device} through ${folder} failed`, { cause: error });
      }
    },
    read() {
      const seconds = waitForSeconds(join(folder, 'timeout'), asked);
      if (seconds === null) throw new AppError('timeout', `watchdog ${device} did not say its timeout in ${folder}/timeout`);
      return seconds;
    },
    isStuckArmed: () => false,
  };
}

/** What the file says as soon as it says `wanted`; at the deadline whatever it says, null when it says nothing. */
function waitForSeconds(file: string, wanted: number): number | null {
  const pause = new Int32Array(new SharedArrayBuffer(4));
  const tries = Math.ceil(limits.watchdogAnswerMs / 10);
  let said: number | null = null;
  for (let count = 0; count < tries; count += 1) {
    said = readSeconds(file) ?? said;
    if (said === wanted) return said;
    // Waiting on this thread is meant: nothing of ours may run before the timeout is known.
    Atomics.wait(pause, 0, 0, 10);
  }
  return said;
}

function readSeconds(file: string): number | null {
  try {
    const text = readFileSync(file, 'utf8').trim();
    return /^\d+(\.\d+)?$/.test(text) ? Number(text) : null;
  } catch {
    return null;
  }
}
