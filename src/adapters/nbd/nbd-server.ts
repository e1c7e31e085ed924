import { chmod, chown, mkdir, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { createByteReader } from './byte-reader.ts';
import { acceptClient } from './nbd-welcome.ts';

/** Numbers of the NBD protocol (doc/proto.md of the NBD project). */
const requestMagic = 0x25609513;
const simpleReplyMagic = 0x67446698;
const chunkMagic = 0x668e33ef;
const command = { read: 0, write: 1, disconnect: 2, flush: 3 } as const;
const chunk = { data: 1, error: 0x8001 } as const;
const doneFlag = 1;
const errno = { notPermitted: 1, io: 5, invalid: 22 } as const;
const maxReadBytes = 32 << 20;
const headBytes = 28;
/** Requests of one client under way at once: more than any client of ours sends. */
const mostUnderWay = 64;

/** A disk that can be read. A read that fails is answered with an I/O error. */
export type ReadableDisk = { sizeBytes: number; read(at: number, bytes: number): Promise<Uint8Array> };

export type NbdServer = { close(): Promise<void> };

/**
 * Serves disks read-only over NBD on a unix socket that `owner` alone may use (null: whoever we are). A socket that an earlier process left there is
 * replaced. Nothing that a client says reaches further than to end its own connection.
 */
export async function serveNbd(
  socketPath: string,
  disks: ReadonlyMap<string, ReadableDisk>,
  owner: { uid: number; gid: number } | null,
): Promise<NbdServer> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    void serveClient(socket, disks).finally(() => socket.destroy());
  });
  await mkdir(dirname(socketPath), { recursive: true, mode: 0o711 });
  await rm(socketPath, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(socketPath, () => resolve());
  });
  await chmod(socketPath, 0o600);
  if (owner !== null) await chown(socketPath, owner.uid, owner.gid);
  return {
    async close() {
      const closed = new Promise<void>((resolve) => void server.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

/** Until the client leaves, breaks the protocol, or the connection is gone. */
async function serveClient(socket: Socket, disks: ReadonlyMap<string, ReadableDisk>): Promise<void> {
  const reader = createByteReader(socket, 'client');
  const freed = new Set<() => void>();
  let underWay = 0;
  try {
    const { disk, isStructured } = await acceptClient(socket, reader, disks);
    for (;;) {
      const request = parseRequest(await reader.read(headBytes));
      if (request === null || request.type === command.disconnect) return;
      const { type, handle, at, bytes } = request;
      // What is to be written must be taken off the line even though it is refused.
      if (type === command.write) await skip(reader, bytes);
      if (type === command.flush) socket.write(formatAnswer(isStructured, handle, at, new Uint8Array()));
      else if (type !== command.read || bytes === 0 || bytes > maxReadBytes || at + bytes > disk.sizeBytes)
        socket.write(formatError(isStructured, handle, type === command.write ? errno.notPermitted : errno.invalid));
      else {
        underWay += 1;
        void disk
          .read(at, bytes)
          .then(
            (data) => formatAnswer(isStructured, handle, at, data),
            () => formatError(isStructured, handle, errno.io),
          )
          .then((answer) => {
            underWay -= 1;
            if (!socket.destroyed) socket.write(answer);
            for (const wake of freed) wake();
          });
      }
      while (underWay >= mostUnderWay && !socket.destroyed) await new Promise<void>((resolve) => freed.add(resolve));
      freed.clear();
    }
  } catch {
    // It is gone, or speaks something else; there is nobody to tell.
  }
}

async function skip(reader: ReturnType<typeof createByteReader>, bytes: number): Promise<void> {
  for (let left = bytes; left > 0; left -= maxReadBytes) await reader.read(Math.min(left, maxReadBytes));
}

function parseRequest(head: Buffer): { type: number; handle: bigint; at: number; bytes: number } | null {
  if (head.readUInt32BE(0) !== requestMagic) return null;
  return {
    type: head.readUInt16BE(6),
    handle: head.readBigUInt64BE(8),
    at: Number(head.readBigUInt64BE(16)),
    bytes: head.readUInt32BE(24),
  };
}

function formatAnswer(isStructured: boolean, handle: bigint, at: number, data: Uint8Array): Buffer {
  if (!isStructured || data.length === 0) return Buffer.concat([formatHead(handle, 0), data]);
  const head = formatChunkHead(handle, chunk.data, 8 + data.length);
  const offset = Buffer.alloc(8);
  offset.writeBigUInt64BE(BigInt(at));
  return Buffer.concat([head, offset, data]);
}

function formatError(isStructured: boolean, handle: bigint, code: number): Buffer {
  if (!isStructured) return formatHead(handle, code);
  const body = Buffer.alloc(6); // the number, and no words
  body.writeUInt32BE(code);
  return Buffer.concat([formatChunkHead(handle, chunk.error, body.length), body]);
}

/** What a flush is answered with in either case. */
function formatHead(handle: bigint, code: number): Buffer {
  const head = Buffer.alloc(16);
  head.writeUInt32BE(simpleReplyMagic, 0);
  head.writeUInt32BE(code, 4);
  head.writeBigUInt64BE(handle, 8);
  return head;
}

function formatChunkHead(handle: bigint, type: number, bytes: number): Buffer {
  const head = Buffer.alloc(20);
  head.writeUInt32BE(chunkMagic, 0);
  head.writeUInt16BE(doneFlag, 4);
  head.writeUInt16BE(type, 6);
  head.writeBigUInt64BE(handle, 8);
  head.writeUInt32BE(bytes, 16);
  return head;
}
