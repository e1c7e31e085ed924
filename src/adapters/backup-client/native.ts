import koffi from 'koffi';

/** Calls that Node lacks. Numbers as on Linux with the generic ABI (x86-64, arm64). */
const seekData = 3; // SEEK_DATA
const currentFolder = -100; // AT_FDCWD
const noFollow = 0x100; // AT_SYMLINK_NOFOLLOW
const detach = 2; // MNT_DETACH
const errnos = { ENXIO: 6, ERANGE: 34, ENODATA: 61, EOPNOTSUPP: 95 } as const;
const listBytes = 64 * 1024;
const valueBytes = 64 * 1024;

type Calls = {
  lseek: (fd: number, offset: number, whence: number) => number;
  llistxattr: (path: Buffer, list: Buffer, size: number) => number;
  lgetxattr: (path: Buffer, name: Buffer, value: Buffer, size: number) => number;
  lsetxattr: (path: Buffer, name: Buffer, value: Uint8Array, size: number, flags: number) => number;
  mknod: (path: Buffer, mode: number, device: number) => number;
  utimensat: (folder: number, path: Buffer, times: Buffer, flags: number) => number;
  mount: (source: string, target: string, type: string, flags: number, data: string) => number;
  umount2: (target: string, flags: number) => number;
};
let loaded: Calls | null = null;

function calls(): Calls {
  if (loaded !== null) return loaded;
  const libc = koffi.load('libc.so.6');
  const path = 'const uint8_t *path';
  loaded = {
    lseek: libc.func('int64_t lseek64(int fd, int64_t offset, int whence)') as Calls['lseek'],
    llistxattr: libc.func(`int64_t llistxattr(${path}, uint8_t *list, size_t size)`) as Calls['llistxattr'],
    lgetxattr: libc.func(`int64_t lgetxattr(${path}, const uint8_t *name, uint8_t *value, size_t size)`) as Calls['lgetxattr'],
    lsetxattr: libc.func(
      `int lsetxattr(${path}, const uint8_t *name, const uint8_t *value, size_t size, int flags)`,
    ) as Calls['lsetxattr'],
    mknod: libc.func(`int mknod(${path}, uint32_t mode, uint64_t device)`) as Calls['mknod'],
    utimensat: libc.func(`int utimensat(int folder, ${path}, const uint8_t *times, int flags)`) as Calls['utimensat'],
    mount: libc.func(
      'int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)',
    ) as Calls['mount'],
    umount2: libc.func('int umount2(const char *target, int flags)') as Calls['umount2'],
  };
  return loaded;
}

/** Fresh memory whose address is a multiple of `alignment`. */
export function allocateAligned(bytes: number, alignment: number): Buffer {
  const memory = Buffer.allocUnsafeSlow(bytes + alignment);
  const past = Number(BigInt(koffi.address(memory)) % BigInt(alignment));
  const skipped = past === 0 ? 0 : alignment - past;
  return memory.subarray(skipped, skipped + bytes);
}

/** True when the address of the memory is a multiple of `alignment`. */
export function isAligned(memory: Uint8Array, alignment: number): boolean {
  return BigInt(koffi.address(memory)) % BigInt(alignment) === 0n;
}

/** Where data begins at or after `offset`; null: there is none to the end. A file system that knows no holes answers `offset`. */
export function findData(fd: number, offset: number): number | null {
  const found = calls().lseek(fd, offset, seekData);
  if (found >= 0) return found;
  return koffi.errno() === errnos.ENXIO ? null : offset;
}

/** Extended attributes of a file, never of what a link points to. */
export function readXattrs(path: Uint8Array): { name: Buffer; value: Buffer }[] {
  const at = terminated(path);
  const list = Buffer.alloc(listBytes);
  const length = calls().llistxattr(at, list, list.length);
  if (length < 0) {
    if (koffi.errno() === errnos.EOPNOTSUPP) return [];
    throw callError('llistxattr');
  }
  const names = length === 0 ? [] : list.toString('latin1', 0, length - 1).split('\0');
  return names.flatMap((text) => {
    const name = Buffer.from(text, 'latin1');
    const value = Buffer.alloc(valueBytes);
    const bytes = calls().lgetxattr(at, terminated(name), value, value.length);
    if (bytes >= 0) return [{ name, value: value.subarray(0, bytes) }];
    if (koffi.errno() === errnos.ENODATA) return []; // it went meanwhile
    throw callError('lgetxattr');
  });
}

export function writeXattr(path: Uint8Array, name: Uint8Array, value: Uint8Array): void {
  if (calls().lsetxattr(terminated(path), terminated(name), value, value.length, 0) !== 0) throw callError('lsetxattr');
}

/** A device, named pipe or socket. */
export function makeNode(path: Uint8Array, mode: number, major: number, minor: number): void {
  // glibc's makedev
  const [high, low] = [BigInt(major), BigInt(minor)];
  const device = (low & 0xffn) | ((high & 0xfffn) << 8n) | ((low & ~0xffn) << 12n) | ((high & ~0xfffn) << 32n);
  if (calls().mknod(terminated(path), mode, Number(device)) !== 0) throw callError('mknod');
}

/** Modification and access time to the nanosecond, never of what a link points to. */
export function setTimes(path: Uint8Array, seconds: number, nanos: number): void {
  const times = Buffer.alloc(32);
  for (const at of [0, 16]) {
    times.writeBigInt64LE(BigInt(seconds), at);
    times.writeBigInt64LE(BigInt(nanos), at + 8);
  }
  if (calls().utimensat(currentFolder, terminated(path), times, noFollow) !== 0) throw callError('utimensat');
}

/** Mounts a FUSE file system that this process serves through `fd`, read-only, without devices and set-uid programs. */
export function mountFuse(target: string, fd: number, options: string): void {
  const [readOnly, noSuid, noDev] = [1, 2, 4];
  const data = `fd=${fd},${options}`;
  if (calls().mount('holdfast-backup', target, 'fuse.holdfast-backup', readOnly | noSuid | noDev, data) !== 0) {
    throw callError('mount');
  }
}

/** Takes it away, also while somebody still uses it. */
export function unmountLazily(target: string): void {
  if (calls().umount2(target, detach) !== 0) throw callError('umount2');
}

function terminated(text: Uint8Array): Buffer {
  return Buffer.concat([text, Buffer.alloc(1)]);
}

function callError(call: string): Error {
  return new Error(`${call} failed with errno ${koffi.errno()}`);
}
