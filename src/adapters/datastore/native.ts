import koffi from 'koffi';

/** Calls that Node lacks: locks, syncfs, and an access time alone. Numbers as on Linux with the generic ABI (x86-64, arm64). */
const lockShared = 1;
const lockExclusive = 2;
const lockNoWait = 4;
const setLock = 6; // F_SETLK
const flockTypes = { shared: 0, exclusive: 1, none: 2 } as const; // F_RDLCK, F_WRLCK, F_UNLCK
const currentFolder = -100; // AT_FDCWD
const timeNow = 0x3fff_ffff; // UTIME_NOW
const timeOmit = 0x3fff_fffe; // UTIME_OMIT
const noEntry = 2; // ENOENT
const wouldBlock = [11, 13]; // EAGAIN, EACCES: somebody else holds it

type Calls = {
  flock: (fd: number, operation: number) => number;
  fcntl: (fd: number, command: number, type: string, argument: Buffer) => number;
  syncfs: { async(fd: number, done: (error: unknown, result: number) => void): void };
  utimensat: (folder: number, path: string, times: Buffer, flags: number) => number;
};
let loaded: Calls | null = null;

function calls(): Calls {
  if (loaded !== null) return loaded;
  const libc = koffi.load('libc.so.6');
  loaded = {
    flock: libc.func('int flock(int fd, int operation)') as Calls['flock'],
    fcntl: libc.func('int fcntl(int fd, int command, ...)') as Calls['fcntl'],
    syncfs: libc.func('int syncfs(int fd)') as unknown as Calls['syncfs'],
    utimensat: libc.func('int utimensat(int folder, const char *path, const uint8_t *times, int flags)') as Calls['utimensat'],
  };
  return loaded;
}

/** Takes flock without waiting; false: somebody else holds it. Ends with the descriptor. */
export function tryFlock(fd: number, mode: 'shared' | 'exclusive'): boolean {
  if (calls().flock(fd, (mode === 'shared' ? lockShared : lockExclusive) | lockNoWait) === 0) return true;
  return blockedOrThrow('flock');
}

/** Sets or drops this process's record lock on the whole file, without waiting; false: another process holds it. */
export function tryRecordLock(fd: number, mode: 'shared' | 'exclusive' | 'none'): boolean {
  const lock = Buffer.alloc(32); // struct flock: type i16, whence i16, start i64, length i64 (0: to the end), pid
  lock.writeInt16LE(flockTypes[mode], 0);
  if (calls().fcntl(fd, setLock, 'uint8_t *', lock) === 0) return true;
  return blockedOrThrow('fcntl');
}

/** Waits, off the event loop, until the whole file system is on disk. */
export function syncFileSystem(fd: number): Promise<void> {
  return new Promise((resolve, reject) => {
    calls().syncfs.async(fd, (error, result) => {
      if (error === null && result === 0) resolve();
      else reject(error instanceof Error ? error : new Error(`syncfs failed with ${result}`));
    });
  });
}

/** Access time now, modification time as it was; false: not there. */
export function touchAccessTime(path: string): boolean {
  const times = Buffer.alloc(32);
  times.writeBigInt64LE(BigInt(timeNow), 8);
  times.writeBigInt64LE(BigInt(timeOmit), 24);
  if (calls().utimensat(currentFolder, path, times, 0) === 0) return true;
  if (koffi.errno() === noEntry) return false;
  throw new Error(`utimensat failed with errno ${koffi.errno()}`);
}

function blockedOrThrow(what: string): false {
  const errno = koffi.errno();
  if (wouldBlock.includes(errno)) return false;
  throw new Error(`${what} failed with errno ${errno}`);
}
