import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  type BigIntStats,
} from 'node:fs';
import { AppError } from '#base/error.ts';
import type { CatalogEntry, CatalogWriter } from '#core/backup/catalog.ts';
import type { ChunkBuffer } from '#core/backup/chunk-buffer.ts';
import { PxarEncoder } from '#core/backup/pxar-encoder.ts';
import { modeType, type PxarMetadata, type PxarStat } from '#core/backup/pxar-format.ts';
import { encodeXattr } from '#core/backup/tree-metadata.ts';
import { readXattrs } from './native.ts';

/** `exclude`: paths from the root, with all that is below them. */
export type TreeOptions = { acrossFileSystems: boolean; skipUnreadable: boolean; exclude: readonly string[] };
export type TreeFigures = { files: number; directories: number; others: number; contentBytes: number };
type Link = { target: number; path: Uint8Array };

const readBytes = 1024 * 1024;
const slash = Buffer.from('/');
const zeros = new Uint8Array(64 * 1024);
const specials: readonly number[] = [modeType.fifo, modeType.socket];
const devices: readonly number[] = [modeType.blockDevice, modeType.charDevice];
/** Acls are attributes of these names; an archive holds them in another form, which is not written. */
const aclPrefix = 'system.posix_acl_';

/**
 * Writes a directory with all below it as an archive into `out`, and its list of files into `catalog`, in one walk. Synchronous: it belongs in
 * a worker.
 */
export class TreeReader {
  readonly figures: TreeFigures = { files: 0, directories: 0, others: 0, contentBytes: 0 };
  readonly #encoder = new PxarEncoder();
  readonly #links = new Map<string, Link>();
  readonly #out: ChunkBuffer;
  readonly #catalog: CatalogWriter;
  readonly #onCatalog: (bytes: Uint8Array) => void;
  readonly #options: TreeOptions;
  readonly #onNotice: (text: string) => void;
  #device = 0n;
  #acls = 0;

  constructor(
    out: ChunkBuffer,
    catalog: CatalogWriter,
    onCatalog: (bytes: Uint8Array) => void,
    options: TreeOptions,
    onNotice: (text: string) => void,
  ) {
    this.#out = out;
    this.#catalog = catalog;
    this.#onCatalog = onCatalog;
    this.#options = options;
    this.#onNotice = onNotice;
  }

  /** `name`: of the archive in the catalog. Raises AppError for what cannot be read. */
  read(root: string, name: string): void {
    const path = Buffer.from(root.replace(/(?<=.)\/+$/, ''));
    const stat = this.#lstat(path, root);
    if (!stat.isDirectory()) throw new AppError('invalid', `archive: ${root} is not a directory`);
    this.#device = stat.dev;
    this.#catalog.begin(Buffer.from(name));
    this.#out.write(this.#encoder.startRoot(toPxarStat(stat), this.#metadata(path)));
    this.#readEntries(path, Buffer.alloc(0), this.#list(path));
    this.#endDirectory();
    this.#out.end();
    if (this.#acls > 0) this.#onNotice(`access control lists of ${this.#acls} files are not in the archive`);
  }

  #readEntries(path: Buffer, inside: Buffer, names: readonly Buffer[]): void {
    for (const name of names) {
      const at = Buffer.concat([path, slash, name]);
      const below = inside.length === 0 ? name : Buffer.concat([inside, slash, name]);
      if (this.#options.exclude.length > 0 && this.#options.exclude.includes(below.toString())) continue;
      this.#tolerate(at, () => this.#readEntry(at, below, name));
    }
  }

  #readEntry(path: Buffer, inside: Buffer, name: Buffer): void {
    const stat = lstatSync(path, { bigint: true });
    const type = Number(stat.mode) & modeType.mask;
    if (type === modeType.directory) return this.#readDirectory(path, inside, name, stat);
    if (type === modeType.file) return this.#readFile(path, inside, name);
    const node = { name, stat: toPxarStat(stat), metadata: this.#metadata(path) };
    this.figures.others += 1;
    if (type === modeType.symlink) {
      this.#out.write(this.#encoder.addSymlink(node, readlinkSync(path, { encoding: 'buffer' })));
      this.#catalog.add({ kind: 'symlink', name });
    } else if (devices.includes(type)) {
      const { major, minor } = splitDevice(stat.rdev);
      this.#out.write(this.#encoder.addDevice(node, major, minor));
      this.#catalog.add({ kind: type === modeType.blockDevice ? 'block-device' : 'char-device', name });
    } else if (specials.includes(type)) {
      this.#out.write(this.#encoder.addSpecial(node));
      this.#catalog.add({ kind: type === modeType.fifo ? 'fifo' : 'socket', name });
    }
  }

  #readDirectory(path: Buffer, inside: Buffer, name: Buffer, stat: BigIntStats): void {
    const isOther = stat.dev !== this.#device && !this.#options.acrossFileSystems;
    const names = isOther ? [] : this.#list(path); // before anything of it is written
    this.#out.write(this.#encoder.startDirectory({ name, stat: toPxarStat(stat), metadata: this.#metadata(path) }));
    this.#catalog.begin(name);
    if (isOther) this.#onNotice(`${path.toString()}: another file system is mounted there: left out`);
    else this.#readEntries(path, inside, names);
    this.#endDirectory();
  }

  #endDirectory(): void {
    this.figures.directories += 1;
    this.#out.write(this.#encoder.endDirectory());
    this.#onCatalog(this.#catalog.end());
  }

  #readFile(path: Buffer, inside: Buffer, name: Buffer): void {
    const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NOCTTY | constants.O_NONBLOCK);
    try {
      const stat = fstatSync(fd, { bigint: true });
      if (!stat.isFile()) throw new AppError('conflict', `${path.toString()}: it was exchanged while it was read`);
      const key = stat.nlink > 1n ? `${stat.dev}:${stat.ino}` : null;
      const link = key === null ? undefined : this.#links.get(key);
      if (link !== undefined) {
        this.#out.write(this.#encoder.addHardlink(name, link.target, link.path));
        this.#catalog.add({ kind: 'hardlink', name });
        this.figures.others += 1;
        return;
      }
      const sizeBytes = Number(stat.size);
      const node = { name, stat: toPxarStat(stat), metadata: this.#metadata(path) };
      const { bytes, linkTarget } = this.#encoder.startFile(node, sizeBytes);
      this.#out.write(bytes);
      if (key !== null) this.#links.set(key, { target: linkTarget, path: inside });
      this.#readContent(fd, sizeBytes, path);
      this.figures.files += 1;
      this.figures.contentBytes += sizeBytes;
      const entry: CatalogEntry = { kind: 'file', name, sizeBytes, mtimeSeconds: node.stat.mtimeSeconds };
      this.#catalog.add(entry);
    } finally {
      closeSync(fd);
    }
  }

  /** Exactly as much as the archive said before: a file that changed its length meanwhile is cut, or padded. */
  #readContent(fd: number, sizeBytes: number, path: Buffer): void {
    let left = sizeBytes;
    while (left > 0) {
      const bytes = this.#out.fill(Math.min(left, readBytes), (room) => readSync(fd, room, 0, room.length, null));
      if (bytes === 0) break;
      left -= bytes;
      this.#encoder.addPayload(bytes);
    }
    if (left === 0) return;
    this.#onNotice(`${path.toString()}: it became shorter while it was read; the end is filled with zeros`);
    for (; left > 0; left -= Math.min(left, zeros.length)) {
      this.#out.write(zeros.subarray(0, Math.min(left, zeros.length)));
      this.#encoder.addPayload(Math.min(left, zeros.length));
    }
  }

  /** Names in the order of their bytes, as archives have them. */
  #list(path: Buffer): Buffer[] {
    return readdirSync(path, { encoding: 'buffer' }).toSorted((a, b) => Buffer.compare(a, b));
  }

  #metadata(path: Buffer): PxarMetadata[] {
    const found: PxarMetadata[] = [];
    for (const { name, value } of readXattrs(path)) {
      const item = encodeXattr(name, value);
      if (item !== null) found.push(item);
      else if (name.toString('latin1').startsWith(aclPrefix)) this.#acls += 1;
    }
    return found;
  }

  #lstat(path: Buffer, root: string): BigIntStats {
    try {
      return lstatSync(path, { bigint: true });
    } catch (cause) {
      throw new AppError('invalid', `archive: looking at ${root}`, { cause });
    }
  }

  /** What vanished is not there to be read; what is there and cannot be read ends the backup unless that was allowed. */
  #tolerate(path: Buffer, read: () => void): void {
    try {
      read();
    } catch (cause) {
      const code = (cause as NodeJS.ErrnoException).code;
      if (cause instanceof AppError) throw cause;
      if (code === 'ENOENT') return this.#onNotice(`${path.toString()}: it vanished while the tree was read`);
      const isAllowed = this.#options.skipUnreadable && (code === 'EACCES' || code === 'EPERM');
      if (isAllowed) return this.#onNotice(`${path.toString()}: not allowed to read it: left out`);
      throw new AppError('denied', `archive: reading ${path.toString()} (--skip-unreadable leaves out what may not be read)`, {
        cause,
      });
    }
  }
}

function toPxarStat(stat: BigIntStats): PxarStat {
  const seconds = stat.mtimeNs / 1_000_000_000n - (stat.mtimeNs % 1_000_000_000n < 0n ? 1n : 0n);
  return {
    mode: Number(stat.mode),
    flags: 0n,
    uid: Number(stat.uid),
    gid: Number(stat.gid),
    mtimeSeconds: Number(seconds),
    mtimeNanos: Number(stat.mtimeNs - seconds * 1_000_000_000n),
  };
}

/** As glibc's major and minor. */
function splitDevice(device: bigint): { major: number; minor: number } {
  return {
    major: Number(((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn)),
    minor: Number((device & 0xffn) | ((device >> 12n) & ~0xffn)),
  };
}
