import koffi from 'koffi';
import { AppError } from '#base/error.ts';

/**
 * Takes a network link of the caller's own network namespace down or up by one ioctl, without starting a program: a machine that
 * loses power must be silent before its processes die, or the kernel would say goodbye to its peers (FIN, RST) on its behalf.
 */
export type LinkPower = { set(power: 'up' | 'down'): void };

const AF_INET = 2;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const SIOCGIFFLAGS = 0x8913;
const SIOCSIFFLAGS = 0x8914;
const IFF_UP = 1;
/** struct ifreq: 16 bytes of name, then a union of which the flags are the first 2 bytes (linux/if.h). */
const ifreqBytes = 40;
const flagsOffset = 16;

/** Opens the link `name`. A link that is not there when asked is silence already: taking it down is then no error. */
export function openLinkPower(name: string): LinkPower {
  const libc = koffi.load('libc.so.6');
  const socket = libc.func('int socket(int domain, int type, int protocol)');
  const ioctl = libc.func('int ioctl(int fd, unsigned long request, void *argument)');
  const fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) as number;
  if (fd < 0) throw new AppError('unavailable', `opening link ${name}: no socket (errno ${koffi.errno()})`);
  return {
    set(power) {
      const request = Buffer.alloc(ifreqBytes);
      request.write(name, 0, flagsOffset - 1, 'latin1');
      const read = ioctl(fd, SIOCGIFFLAGS, request) as number;
      if (read < 0 && koffi.errno() === koffi.os.errno['ENODEV'] && power === 'down') return;
      if (read < 0) throw new AppError('unavailable', `reading the flags of link ${name}: errno ${koffi.errno()}`);
      const flags = request.readUInt16LE(flagsOffset);
      request.writeUInt16LE(power === 'up' ? flags | IFF_UP : flags & ~IFF_UP, flagsOffset);
      if ((ioctl(fd, SIOCSIFFLAGS, request) as number) < 0) {
        throw new AppError('unavailable', `taking link ${name} ${power}: errno ${koffi.errno()}`);
      }
    },
  };
}
