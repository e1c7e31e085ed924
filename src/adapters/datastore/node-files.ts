import { close, closeSync, fstatSync, mkdirSync, openSync, statSync } from 'node:fs';
import { appendFile, link, mkdir, open, readdir, readFile, rename, rm, rmdir, stat, statfs, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setImmediate as immediate } from 'node:timers/promises';
import { AppError } from '#base/error.ts';
import type { ByteRooms } from '#core/backup/byte-rooms.ts';
import { syncFileSystem, touchAccessTime, tryFlock, tryRecordLock } from './native.ts';
import { own } from './parts.ts';
import type { FileLock, StoreFiles } from './store-files.ts';

/** Folders made before others get their turn: a few milliseconds. */
const foldersPerTurn = 256;

/** Files of a datastore below `root`. Opened once per process and store: a record lock is lost when any descriptor of it is closed. */
export function openNodeFiles(root: string): StoreFiles {
  const at = (path: string): string => join(root, path);
  let counter = 0;

  async function writeTemporary(content: Uint8Array, sync: boolean, mode = 0o640): Promise<string> {
    counter += 1;
    const temporary = at(`${own.temporary}/${process.pid}-${counter}`);
    const file = await open(temporary, 'wx', mode);
    try {
      await file.writeFile(content);
      if (sync) await file.sync();
    } finally {
      await file.close();
    }
    return temporary;
  }

  return {
    read: (path, rooms) =>
      guard(`reading ${path}`, () => orNull(rooms === undefined ? readFile(at(path)) : readInto(at(path), rooms))),
    peek: (path, bytes) => guard(`looking at ${path}`, () => orNull(peek(at(path), bytes))),
    list: (path) =>
      guard(`listing ${path}`, async () => {
        const entries = await orNull(readdir(at(path), { withFileTypes: true }));
        return entries?.map((entry) => ({ name: entry.name, isFolder: entry.isDirectory() })) ?? null;
      }),
    changedAt: (path) => guard(`looking at ${path}`, async () => (await orNull(stat(at(path))))?.mtimeMs ?? null),
    replace: (path, content, sync) =>
      guard(`writing ${path}`, async () => {
        // The original's own pages read this one as somebody else.
        const temporary = await writeTemporary(content, sync, path === '.gc-status' ? 0o644 : undefined);
        try {
          if (path.startsWith('.chunks/')) await renameInto(temporary, at(path));
          else await rename(temporary, at(path));
        } catch (error) {
          await rm(temporary, { force: true });
          throw error;
        }
        if (sync) await syncFolder(dirname(at(path)));
      }),
    createNew: (path, content) =>
      guard(`creating ${path}`, async () => {
        const temporary = await writeTemporary(content, true);
        try {
          await link(temporary, at(path));
        } catch (error) {
          if (hasCode(error, 'EEXIST')) return false;
          throw error;
        } finally {
          await unlink(temporary);
        }
        await syncFolder(dirname(at(path)));
        return true;
      }),
    append: (path, content) => guard(`appending to ${path}`, () => appendFile(at(path), content)),
    rename: (from, to) => guard(`renaming ${from}`, () => rename(at(from), at(to))),
    remove: (path) => guard(`removing ${path}`, () => isThere(unlink(at(path)))),
    removeTree: (path) => guard(`removing ${path}`, () => rm(at(path), { recursive: true, force: true })),
    removeFolder: (path) => guard(`removing ${path}`, () => isRemoved(rmdir(at(path)))),
    makeFolder: (path) =>
      guard(`making ${path}`, async () => (await mkdir(at(path), { recursive: true, mode: 0o750 })) !== undefined),
    makeFolders: (paths) =>
      guard(`making ${paths.length} folders`, async () => {
        for (let start = 0; start < paths.length; start += foldersPerTurn) {
          // By turns of the loop: tens of thousands of calls through the thread pool take many times as long.
          for (const path of paths.slice(start, start + foldersPerTurn)) makeFolderSync(at(path));
          await immediate();
        }
      }),
    touch: (path) => guard(`touching ${path}`, async () => touchAccessTime(at(path))),
    syncFolder: (path) => guard(`syncing ${path}`, () => syncFolder(at(path))),
    syncAll: () =>
      guard('syncing the file system', async () => {
        const handle = await open(root, 'r');
        try {
          await syncFileSystem(handle.fd);
        } finally {
          await handle.close();
        }
      }),
    lock: (path, mode) => guard(`locking ${path}`, async () => lockPath(at(path), mode)),
    lockProcess: createProcessLock(at('.lock')),
    space: () =>
      guard('asking for space', async () => {
        const { bsize, blocks, bavail } = await statfs(root);
        return { totalBytes: bsize * blocks, availableBytes: bsize * bavail };
      }),
  };
}

function makeFolderSync(path: string): void {
  try {
    mkdirSync(path, { mode: 0o750 });
  } catch (error) {
    if (!hasCode(error, 'EEXIST')) throw error;
  }
}

async function readInto(path: string, rooms: ByteRooms): Promise<Uint8Array> {
  const file = await open(path, 'r');
  try {
    const room = rooms.take((await file.stat()).size);
    let filled = 0;
    while (filled < room.length) {
      const { bytesRead } = await file.read(room, filled, room.length - filled, filled);
      if (bytesRead === 0) break; // somebody cut it off: whoever looks into it finds out
      filled += bytesRead;
    }
    return room.subarray(0, filled);
  } finally {
    await file.close();
  }
}

async function peek(path: string, bytes: number): Promise<{ sizeBytes: number; head: Uint8Array }> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    if (bytes === 0) return { sizeBytes: size, head: new Uint8Array() };
    const { buffer, bytesRead } = await file.read(Buffer.alloc(bytes), 0, bytes, 0);
    return { sizeBytes: size, head: buffer.subarray(0, bytesRead) };
  } finally {
    await file.close();
  }
}

/** A chunk folder that somebody removed is made again. */
async function renameInto(from: string, to: string): Promise<void> {
  try {
    await rename(from, to);
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    await mkdir(dirname(to), { recursive: true, mode: 0o750 });
    await rename(from, to);
  }
}

async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function lockPath(path: string, mode: 'shared' | 'exclusive'): FileLock | null {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return null;
    throw error;
  }
  try {
    if (tryFlock(fd, mode) && isSameFile(fd, path)) return { release: () => close(fd) };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  closeSync(fd);
  return null;
}

/** Between opening and locking the folder may have been removed, and made anew. */
function isSameFile(fd: number, path: string): boolean {
  const held = fstatSync(fd);
  const named = statSync(path, { throwIfNoEntry: false });
  return named !== undefined && named.ino === held.ino && named.dev === held.dev;
}

/**
 * The record lock belongs to the process: shared while any writer is open, exclusive while garbage is collected, and both at once within
 * this process. It never falls back below what somebody here still needs.
 */
function createProcessLock(path: string): StoreFiles['lockProcess'] {
  const holders = { shared: 0, exclusive: 0 };
  let fd: number | null = null;
  return (mode) =>
    guard('locking .lock', async () => {
      fd ??= openSync(path, 'a+', 0o640);
      const held = fd;
      const needs = mode === 'exclusive' || holders.exclusive > 0 ? 'exclusive' : 'shared';
      if (!tryRecordLock(held, needs)) return null;
      holders[mode] += 1;
      let isHeld = true;
      return {
        release() {
          if (!isHeld) return;
          isHeld = false;
          holders[mode] -= 1;
          const rest = holders.exclusive > 0 ? 'exclusive' : holders.shared > 0 ? 'shared' : 'none';
          tryRecordLock(held, rest);
        },
      };
    });
}

async function guard<Result>(doing: string, job: () => Promise<Result>): Promise<Result> {
  try {
    return await job();
  } catch (error) {
    if (error instanceof AppError) throw error;
    if (hasCode(error, 'ENOSPC') || hasCode(error, 'EDQUOT')) {
      throw new AppError('unavailable', `datastore: ${doing}: no space left; prune snapshots and collect garbage`, {
        cause: error,
      });
    }
    throw new AppError('unavailable', `datastore: ${doing} failed`, { cause: error });
  }
}

async function orNull<Result>(reading: Promise<Result>): Promise<Result | null> {
  try {
    return await reading;
  } catch (error) {
    if (hasCode(error, 'ENOENT') || hasCode(error, 'ENOTDIR')) return null;
    throw error;
  }
}

async function isThere(removing: Promise<void>): Promise<boolean> {
  try {
    await removing;
    return true;
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return false;
    throw error;
  }
}

async function isRemoved(removing: Promise<void>): Promise<boolean> {
  try {
    await removing;
    return true;
  } catch (error) {
    if (hasCode(error, 'ENOENT') || hasCode(error, 'ENOTEMPTY')) return false;
    throw error;
  }
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
