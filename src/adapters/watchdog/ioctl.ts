import koffi from 'koffi';
import { AppError } from '#base/error.ts';

/**
 * The three ioctls of a Linux watchdog (include/uapi/linux/watchdog.h). The numbers are those of architectures with the generic ioctl
 * encoding, x86-64 and arm64 among them.
 */
const getSupport = 0x8028_5700; // WDIOC_GETSUPPORT = _IOR('W', 0, struct watchdog_info), 40 bytes
const setTimeoutSeconds = 0xc004_5706; // WDIOC_SETTIMEOUT = _IOWR('W', 6, int)
const getTimeoutSeconds = 0x8004_5707; // WDIOC_GETTIMEOUT = _IOR('W', 7, int)

/** WDIOF_MAGICCLOSE: closing without 'V' keeps the countdown going. */
export const magicCloseOption = 0x0100;

type Ioctl = (fd: number, request: number, argument: Buffer) => number;
let loaded: Ioctl | null = null;

/** Driver options (WDIOF_* bits). */
export function readWatchdogOptions(fd: number): number {
  return call(fd, getSupport, 'reading what the driver can do', Buffer.alloc(40)).readUInt32LE(0);
}

/** Asks for a timeout; the driver may round or clamp it, so read it back. */
export function writeWatchdogSeconds(fd: number, seconds: number): void {
  const argument = Buffer.alloc(4);
  argument.writeInt32LE(seconds);
  call(fd, setTimeoutSeconds, `setting a timeout of ${seconds} s`, argument);
}

export function readWatchdogSeconds(fd: number): number {
  return call(fd, getTimeoutSeconds, 'reading the timeout', Buffer.alloc(4)).readInt32LE(0);
}

function call(fd: number, request: number, what: string, argument: Buffer): Buffer {
  loaded ??= koffi.load('libc.so.6').func('int ioctl(int fd, unsigned long request, _Inout_ uint8_t *argument)') as Ioctl;
  if (loaded(fd, request, argument) !== 0) {
    throw new AppError(
      'unsupported',
      `${what} of the watchdog failed with errno ${koffi.errno()} (ioctl 0x${request.toString(16)})`,
    );
  }
  return argument;
}
