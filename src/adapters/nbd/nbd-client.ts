import { connect, type Socket } from 'node:net';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { createByteReader, type ByteReader } from './byte-reader.ts';
import { allocationContext, negotiate, type NbdExport } from './nbd-handshake.ts';

/** Numbers of the NBD protocol (doc/proto.md of the NBD project). */
const requestMagic = 0x25609513;
const simpleReplyMagic = 0x67446698;
const chunkMagic = 0x668e33ef;
const command = { read: 0, write: 1, disconnect: 2, flush: 3, trim: 4, writeZeroes: 6, blockStatus: 7 } as const;
const chunk = { none: 0, data: 1, hole: 2, status: 5, errorBit: 0x8000 } as const;
const doneFlag = 1;
/** base:allocation: reads as zeroes. qemu:dirty-bitmap: marked (QEMU, docs/interop/nbd.txt). */
const zeroFlag = 2;
const dirtyFlag = 1;
const maxPayloadBytes = 32 << 20;

/** A run of a disk that is all zeroes, or may hold data. */
export type Extent = { offset: number; length: number; zero: boolean };
/** A run of a disk that a bitmap marks, or does not. */
export type MarkedExtent = { offset: number; length: number; marked: boolean };
type FlaggedExtent = { offset: number; length: number; flags: number };

/** One NBD connection to one export. Calls may be under way at the same time; the server answers them in its own order. */
export type NbdClient = {
  readonly sizeBytes: number;
  read(offset: number, length: number): Promise<Buffer>;
  write(offset: number, data: Uint8Array): Promise<void>;
  writeZeroes(offset: number, length: number): Promise<void>;
  /** The content is not needed any more. */
  trim(offset: number, length: number): Promise<void>;
  /** Returns when everything written before is on the server's disk. */
  flush(): Promise<void>;
  /** What lies from `offset` on; may tell less than `length`, never nothing. */
  readExtents(offset: number, length: number): Promise<Extent[]>;
  /** What the bitmap that was asked for marks from `offset` on, likewise. */
  readMarks(offset: number, length: number): Promise<MarkedExtent[]>;
  close(): void;
};

type Waiting = {
  what: string;
  offset: number;
  /** Reads are filled in here; null for the others. */
  into: Buffer | null;
  extents: FlaggedExtent[];
  error: AppError | null;
  resolve: () => void;
  reject: (error: Error) => void;
  timer: NodeJS.Timeout;
};

/**
 * Connects to the export of an NBD server on a unix socket. Raises AppError unavailable, timeout (no handshake within `deadlineMs`),
 * missing (no such export, or it does not show `bitmap`) or unsupported. Each call raises AppError unavailable, timeout or invalid (the server's error number).
 */
export async function connectNbd(
  socketPath: string,
  exportName: string,
  options: { deadlineMs: number; bitmap?: string },
): Promise<NbdClient> {
  const socket = connect(socketPath);
  const name = `${socketPath} export ${exportName}`;
  const reader = createByteReader(socket, name);
  const late = new AppError('timeout', `NBD ${name}: no handshake within ${options.deadlineMs} ms`);
  const timer = setTimeout(() => socket.destroy(late), options.deadlineMs);
  try {
    const context = options.bitmap === undefined ? allocationContext : `qemu:dirty-bitmap:${options.bitmap}`;
    const about = await negotiate(socket, reader, exportName, context);
    if (options.bitmap !== undefined && !about.hasContext)
      throw new AppError('missing', `NBD ${name}: it shows no bitmap ${options.bitmap}`);
    return createClient(socket, reader, about, name);
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

function createClient(socket: Socket, reader: ByteReader, about: NbdExport, name: string): NbdClient {
  const waiting = new Map<bigint, Waiting>();
  let nextHandle = 1n;
  let ended: Error | null = null;

  function end(cause: unknown): void {
    if (ended !== null) return;
    ended = cause instanceof AppError ? cause : new AppError('unavailable', `NBD ${name}: the connection broke`, { cause });
    socket.destroy();
    for (const entry of waiting.values()) {
      clearTimeout(entry.timer);
      entry.reject(ended);
    }
    waiting.clear();
  }

  async function readAnswers(): Promise<void> {
    for (;;) {
      const magic = (await reader.read(4)).readUInt32BE(0);
      if (magic === simpleReplyMagic) await takeSimple(reader, waiting, name);
      else if (magic === chunkMagic) await takeChunk(reader, waiting, name);
      else throw new AppError('unsupported', `NBD ${name}: the server's answer makes no sense`);
    }
  }

  async function ask(type: number, offset: number, length: number, payload: Uint8Array | null, flags = 0): Promise<Waiting> {
    if (ended !== null) throw ended;
    const handle = nextHandle;
    nextHandle += 1n;
    const header = Buffer.alloc(28);
    header.writeUInt32BE(requestMagic, 0);
    header.writeUInt16BE(flags, 4);
    header.writeUInt16BE(type, 6);
    header.writeBigUInt64BE(handle, 8);
    header.writeBigUInt64BE(BigInt(offset), 16);
    header.writeUInt32BE(length, 24);
    const answered = Promise.withResolvers<void>();
    const entry: Waiting = {
      what: `command ${type} at ${offset}`,
      offset,
      into: type === command.read ? Buffer.alloc(length) : null,
      extents: [],
      error: null,
      resolve: answered.resolve,
      reject: answered.reject,
      timer: setTimeout(
        () => end(new AppError('timeout', `NBD ${name}: no answer in ${limits.nbdRequestMs} ms`)),
        limits.nbdRequestMs,
      ),
    };
    waiting.set(handle, entry);
    socket.cork();
    socket.write(header);
    if (payload !== null) socket.write(payload);
    socket.uncork();
    await answered.promise;
    return entry;
  }

  readAnswers().catch(end);
  return {
    sizeBytes: about.sizeBytes,
    read: async (offset, length) => (await ask(command.read, offset, length, null)).into ?? Buffer.alloc(0),
    async write(offset, data) {
      await ask(command.write, offset, data.length, data);
    },
    async writeZeroes(offset, length) {
      await ask(command.writeZeroes, offset, length, null);
    },
    async trim(offset, length) {
      await ask(command.trim, offset, length, null);
    },
    async flush() {
      await ask(command.flush, 0, 0, null);
    },
    async readExtents(offset, length) {
      if (!about.hasContext) return [{ offset, length, zero: false }];
      const { extents } = await ask(command.blockStatus, offset, length, null);
      return extents.map((extent) => ({ offset: extent.offset, length: extent.length, zero: (extent.flags & zeroFlag) !== 0 }));
    },
    async readMarks(offset, length) {
      const { extents } = await ask(command.blockStatus, offset, length, null);
      return extents.map((extent) => ({
        offset: extent.offset,
        length: extent.length,
        marked: (extent.flags & dirtyFlag) !== 0,
      }));
    },
    close() {
      if (ended !== null) return;
      const bye = Buffer.alloc(28);
      bye.writeUInt32BE(requestMagic, 0);
      bye.writeUInt16BE(command.disconnect, 6);
      socket.end(bye);
      ended = new AppError('unavailable', `NBD ${name}: closed by us`);
    },
  };
}

function settle(waiting: Map<bigint, Waiting>, handle: bigint, entry: Waiting): void {
  clearTimeout(entry.timer);
  waiting.delete(handle);
  if (entry.error === null) entry.resolve();
  else entry.reject(entry.error);
}

function find(waiting: Map<bigint, Waiting>, handle: bigint, name: string): Waiting {
  const entry = waiting.get(handle);
  if (entry === undefined) throw new AppError('unsupported', `NBD ${name}: an answer to nothing we asked`);
  return entry;
}

function errorOf(entry: Waiting, name: string, errno: number): AppError {
  return new AppError(
    'invalid',
    `NBD ${name}: ${entry.what} failed with error ${errno}${errno === 28 ? ' (no space left)' : ''}`,
  );
}

async function takeSimple(reader: ByteReader, waiting: Map<bigint, Waiting>, name: string): Promise<void> {
  const head = await reader.read(12);
  const handle = head.readBigUInt64BE(4);
  const entry = find(waiting, handle, name);
  const errno = head.readUInt32BE(0);
  if (errno !== 0) entry.error = errorOf(entry, name, errno);
  settle(waiting, handle, entry);
}

async function takeChunk(reader: ByteReader, waiting: Map<bigint, Waiting>, name: string): Promise<void> {
  const head = await reader.read(16);
  const [flags, type, handle, length] = [
    head.readUInt16BE(0),
    head.readUInt16BE(2),
    head.readBigUInt64BE(4),
    head.readUInt32BE(12),
  ];
  if (length > maxPayloadBytes) throw new AppError('unsupported', `NBD ${name}: an answer of ${length} bytes`);
  const entry = find(waiting, handle, name);
  const body = length === 0 ? Buffer.alloc(0) : await reader.read(length);
  if (type & chunk.errorBit) entry.error ??= errorOf(entry, name, body.readUInt32BE(0));
  else takeContent(entry, type, body);
  if (flags & doneFlag) settle(waiting, handle, entry);
}

function takeContent(entry: Waiting, type: number, body: Buffer): void {
  if (type === chunk.data && entry.into !== null) body.copy(entry.into, Number(body.readBigUInt64BE(0)) - entry.offset, 8);
  if (type !== chunk.status) return; // a hole: the buffer was made of zeroes
  let offset = entry.offset;
  for (let at = 4; at + 8 <= body.length; at += 8) {
    const length = body.readUInt32BE(at);
    entry.extents.push({ offset, length, flags: body.readUInt32BE(at + 4) });
    offset += length;
  }
}

/** Opens the export, flushes and closes: everything that any connection wrote to it is on disk afterwards. Raises AppError. */
export async function flushExport(socketPath: string, exportName: string): Promise<void> {
  const client = await connectNbd(socketPath, exportName, { deadlineMs: limits.nbdRequestMs });
  try {
    await client.flush();
  } finally {
    client.close();
  }
}
