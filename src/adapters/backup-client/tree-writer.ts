import {
  chmodSync,
  closeSync,
  fchmodSync,
  fchownSync,
  lchownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  symlinkSync,
  writeSync,
} from 'node:fs';
import { AppError } from '#base/error.ts';
import { PxarDecoder, type PxarEvent } from '#core/backup/pxar-decoder.ts';
import { modeType, type PxarMetadata, type PxarStat } from '#core/backup/pxar-format.ts';
import { decodeXattr } from '#core/backup/tree-metadata.ts';
import { makeNode, setTimes, writeXattr } from './native.ts';

type Node = { stat: PxarStat; metadata: readonly PxarMetadata[] };
type OpenDirectory = Node & { path: Buffer };
type OpenFile = Node & { path: Buffer; fd: number };

const slash = Buffer.from('/');
const permissionBits = 0o7777;
/** Only root may give files away and make devices. */
const needsRoot: readonly number[] = [modeType.blockDevice, modeType.charDevice];

/**
 * Writes the tree of an archive below `target`, which must not be there yet or be empty. Names come checked from the decoder; nothing is ever
 * written through a link, because every name is made anew and nobody else knows the directory before it is complete. Synchronous: it belongs
 * in a worker.
 */
export class TreeWriter {
  readonly #decoder = new PxarDecoder();
  readonly #target: Buffer;
  readonly #isOwnerKept: boolean;
  readonly #onNotice: (text: string) => void;
  readonly #open: OpenDirectory[] = [];
  #file: OpenFile | null = null;
  #entries = 0;
  #leftOut = 0;

  /** `isOwnerKept`: files get the owners of the archive, as root can do; otherwise they belong to whoever restores. */
  constructor(target: string, isOwnerKept: boolean, onNotice: (text: string) => void) {
    this.#target = Buffer.from(target);
    this.#isOwnerKept = isOwnerKept;
    this.#onNotice = onNotice;
  }

  /** The next bytes of the archive. Raises AppError; what was written then stays, incomplete. */
  push(bytes: Uint8Array): void {
    for (const event of this.#decoder.push(bytes)) this.#carryOut(event);
  }

  /** To be called after the last byte; answers how many entries there are. */
  end(): number {
    this.#decoder.end();
    if (this.#leftOut > 0) this.#onNotice(`${this.#leftOut} attributes could not be set (file system or permissions)`);
    if (!this.#isOwnerKept) this.#onNotice('owners were not restored: that needs root');
    return this.#entries;
  }

  /** Closes what is open after a failure. */
  abandon(): void {
    if (this.#file !== null) closeSync(this.#file.fd);
    this.#file = null;
  }

  #carryOut(event: PxarEvent): void {
    switch (event.kind) {
      case 'version':
      case 'prelude':
        throw new AppError('unsupported', 'archive: a split archive (NAME.mpxar with NAME.ppxar) cannot be restored');
      case 'directory':
        return this.#enter(event);
      case 'leave':
        return this.#leave();
      case 'file': {
        const path = this.#pathOf(event.name);
        const fd = expecting(path, () => openSync(path, 'wx', 0o600));
        this.#file = { path, fd, stat: event.stat, metadata: event.metadata };
        return;
      }
      case 'data':
        return this.#writeContent(event.bytes);
      case 'file-end':
        return this.#endFile();
      case 'file-ref':
        throw new AppError('unsupported', 'archive: its contents lie in another stream');
      case 'symlink': {
        const path = this.#pathOf(event.name);
        expecting(path, () => symlinkSync(Buffer.from(event.target), path));
        return this.#settle(path, event);
      }
      case 'device':
      case 'special':
        return this.#makeSpecial(event);
      case 'hardlink':
        return this.#link(event.name, event.path);
    }
  }

  #enter({ name, stat, metadata }: PxarEvent & { kind: 'directory' }): void {
    const path = name === null ? this.#target : this.#pathOf(name);
    if (name === null) makeRoot(path);
    else expecting(path, () => mkdirSync(path, 0o700));
    this.#open.push({ path, stat, metadata });
  }

  #leave(): void {
    const directory = this.#open.pop();
    if (directory === undefined) throw new AppError('invalid', 'archive: the end of a directory that was not begun');
    this.#settle(directory.path, directory);
  }

  #writeContent(bytes: Uint8Array): void {
    const file = this.#file;
    if (file === null) throw new AppError('invalid', 'archive: content without a file');
    for (let at = 0; at < bytes.length;) at += expecting(file.path, () => writeSync(file.fd, bytes, at));
  }

  #endFile(): void {
    const file = this.#file;
    if (file === null) throw new AppError('invalid', 'archive: the end of a file that was not begun');
    const { path, fd, stat } = file;
    expecting(path, () => {
      if (this.#isOwnerKept) fchownSync(fd, stat.uid, stat.gid); // it clears set-uid: so before the mode
      fchmodSync(fd, stat.mode & permissionBits);
      closeSync(fd);
    });
    this.#file = null;
    this.#entries += 1;
    this.#setAttributes(path, file);
  }

  #makeSpecial(event: PxarEvent & { kind: 'device' | 'special' }): void {
    const path = this.#pathOf(event.name);
    const { mode } = event.stat;
    if (needsRoot.includes(mode & modeType.mask) && !this.#isOwnerKept) {
      this.#onNotice(`${path.toString()}: a device, which only root can make: left out`);
      return;
    }
    const [major, minor] = event.kind === 'device' ? [event.major, event.minor] : [0, 0];
    expecting(path, () => makeNode(path, (mode & modeType.mask) | 0o600, major, minor));
    this.#settle(path, event);
  }

  /** The path leads through directories of this tree only, never through links, and ends at a file. */
  #link(name: Uint8Array, inside: Uint8Array): void {
    const path = this.#pathOf(name);
    let existing = this.#target;
    const parts = Buffer.from(inside).toString('latin1').split('/');
    for (const [number, part] of parts.entries()) {
      existing = Buffer.concat([existing, slash, Buffer.from(part, 'latin1')]);
      const at = existing;
      const found = expecting(at, () => lstatSync(at));
      const isRight = number === parts.length - 1 ? !found.isDirectory() && !found.isSymbolicLink() : found.isDirectory();
      if (!isRight) throw new AppError('invalid', `archive: the hard link ${path.toString()} leads through something else`);
    }
    expecting(path, () => linkSync(existing, path));
    this.#entries += 1;
  }

  /** Owner, mode, attributes and times, in the order in which none of them undoes another. */
  #settle(path: Buffer, { stat, metadata }: Node): void {
    this.#entries += 1;
    expecting(path, () => {
      if (this.#isOwnerKept) lchownSync(path, stat.uid, stat.gid);
      if ((stat.mode & modeType.mask) !== modeType.symlink) chmodSync(path, stat.mode & permissionBits);
    });
    this.#setAttributes(path, { stat, metadata });
  }

  #setAttributes(path: Buffer, { stat, metadata }: Node): void {
    for (const item of metadata) {
      const xattr = decodeXattr(item);
      try {
        if (xattr === null) this.#leftOut += 1;
        else writeXattr(path, xattr.name, xattr.value);
      } catch {
        this.#leftOut += 1; // told once, at the end
      }
    }
    expecting(path, () => setTimes(path, stat.mtimeSeconds, stat.mtimeNanos));
  }

  #pathOf(name: Uint8Array | null): Buffer {
    const parent = this.#open.at(-1);
    if (name === null || parent === undefined) throw new AppError('invalid', 'archive: an entry outside of the root');
    return Buffer.concat([parent.path, slash, name]);
  }
}

function makeRoot(path: Buffer): void {
  try {
    mkdirSync(path, 0o700);
  } catch (cause) {
    const isThere = (cause as NodeJS.ErrnoException).code === 'EEXIST';
    const isEmpty = isThere && lstatSync(path).isDirectory() && readdirSync(path).length === 0;
    if (isEmpty) return;
    throw new AppError(
      isThere ? 'conflict' : 'invalid',
      `target: ${path.toString()} ${isThere ? 'is there already and not empty; give the name of a new directory' : 'cannot be made'}`,
      { cause },
    );
  }
}

/** What a file system may refuse. Raises AppError. */
function expecting<Result>(path: Buffer, call: () => Result): Result {
  try {
    return call();
  } catch (cause) {
    if (cause instanceof AppError) throw cause;
    throw new AppError('unavailable', `target: writing ${path.toString()}; what was restored before it stays there`, { cause });
  }
}
