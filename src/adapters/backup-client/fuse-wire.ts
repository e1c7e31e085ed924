import type { BrowsableNode } from './browsable.ts';

/** The kernel's FUSE protocol, as far as a tree that can only be read needs it (linux/fuse.h, version 7.31). */
export const opcodes = {
  lookup: 1,
  forget: 2,
  getattr: 3,
  readlink: 5,
  open: 14,
  read: 15,
  statfs: 17,
  release: 18,
  getxattr: 22,
  listxattr: 23,
  flush: 25,
  init: 26,
  opendir: 27,
  readdir: 28,
  releasedir: 29,
  interrupt: 36,
  destroy: 38,
  batchForget: 42,
} as const;
export const errnos = { EIO: 5, ENOENT: 2, ENODEV: 19, ENOSYS: 38, ERANGE: 34, ENODATA: 61 } as const;
/** Requests without a write are short; the kernel wants at least this much room. */
export const requestBytes = 128 * 1024;

const inHeaderBytes = 40;
const outHeaderBytes = 16;
const version = { major: 7, minor: 31 } as const;
const asyncRead = 1 << 0;
const parallelDirectories = 1 << 18;
const maxPages = 1 << 22;
const largestReadPages = 256;
const readAheadBytes = 4 * 1024 * 1024;
/** Nothing changes: the kernel may keep what it knows. */
const validSeconds = 86_400n;
const keepCache = 1 << 1;
const blockBytes = 4096;

export type FuseRequest = { opcode: number; unique: bigint; node: number; body: Buffer };

/** One request, as the kernel gives it. */
export function decodeRequest(bytes: Buffer): FuseRequest {
  return {
    opcode: bytes.readUInt32LE(4),
    unique: bytes.readBigUInt64LE(8),
    node: Number(bytes.readBigUInt64LE(16)),
    body: bytes.subarray(inHeaderBytes, bytes.readUInt32LE(0)),
  };
}

/** An answer; `errno` 0 when all is well. */
export function encodeAnswer(unique: bigint, errno: number, content: Uint8Array): Buffer {
  const answer = Buffer.alloc(outHeaderBytes + content.length);
  answer.writeUInt32LE(answer.length, 0);
  answer.writeInt32LE(-errno, 4);
  answer.writeBigUInt64LE(unique, 8);
  answer.set(content, outHeaderBytes);
  return answer;
}

export function encodeInit(): Buffer {
  const out = Buffer.alloc(64);
  out.writeUInt32LE(version.major, 0);
  out.writeUInt32LE(version.minor, 4);
  out.writeUInt32LE(readAheadBytes, 8);
  out.writeUInt32LE(asyncRead | parallelDirectories | maxPages, 12);
  out.writeUInt16LE(16, 16); // requests that the kernel lets wait in the background
  out.writeUInt16LE(12, 18); // from here on it holds back
  out.writeUInt32LE(blockBytes, 20); // the largest write, of which there is none
  out.writeUInt32LE(1, 24); // times to the nanosecond
  out.writeUInt16LE(largestReadPages, 28);
  return out;
}

/** What a lookup finds. */
export function encodeEntry(node: BrowsableNode): Buffer {
  const out = Buffer.alloc(40);
  out.writeBigUInt64LE(BigInt(node.id), 0);
  out.writeBigUInt64LE(validSeconds, 16);
  out.writeBigUInt64LE(validSeconds, 24);
  return Buffer.concat([out, encodeAttributes(node)]);
}

export function encodeAttributesAnswer(node: BrowsableNode): Buffer {
  const out = Buffer.alloc(16);
  out.writeBigUInt64LE(validSeconds, 0);
  return Buffer.concat([out, encodeAttributes(node)]);
}

function encodeAttributes({ id, stat, sizeBytes, device }: BrowsableNode): Buffer {
  const out = Buffer.alloc(88);
  out.writeBigUInt64LE(BigInt(id), 0);
  out.writeBigUInt64LE(BigInt(sizeBytes), 8);
  out.writeBigUInt64LE(BigInt(Math.ceil(sizeBytes / 512)), 16);
  for (const at of [24, 32, 40]) out.writeBigInt64LE(BigInt(stat.mtimeSeconds), at);
  for (const at of [48, 52, 56]) out.writeUInt32LE(stat.mtimeNanos, at);
  out.writeUInt32LE(stat.mode, 60);
  out.writeUInt32LE(1, 64);
  out.writeUInt32LE(stat.uid, 68);
  out.writeUInt32LE(stat.gid, 72);
  // The kernel's new_encode_dev
  out.writeUInt32LE(((device.minor & 0xff) | (device.major << 8) | ((device.minor & ~0xff) << 12)) >>> 0, 76);
  out.writeUInt32LE(blockBytes, 80);
  return out;
}

export function encodeOpen(isDirectory: boolean): Buffer {
  const out = Buffer.alloc(16);
  out.writeUInt32LE(isDirectory ? 0 : keepCache, 8);
  return out;
}

/** Where and how much a read or a reading of a directory wants. */
export function decodeRead(body: Buffer): { offset: number; bytes: number } {
  return { offset: Number(body.readBigUInt64LE(8)), bytes: body.readUInt32LE(16) };
}

/** As many entries from the `offset`th on as fit; an entry's offset is the number of the next. */
export function encodeDirectory(
  entries: readonly { name: Uint8Array; id: number; mode: number }[],
  offset: number,
  mostBytes: number,
): Buffer {
  const parts: Buffer[] = [];
  let left = mostBytes;
  for (const [index, { name, id, mode }] of entries.entries()) {
    if (index < offset) continue;
    const out = Buffer.alloc(24 + Math.ceil(name.length / 8) * 8);
    if (out.length > left) break;
    left -= out.length;
    out.writeBigUInt64LE(BigInt(id), 0);
    out.writeBigUInt64LE(BigInt(index + 1), 8);
    out.writeUInt32LE(name.length, 16);
    out.writeUInt32LE((mode >>> 12) & 0xf, 20);
    out.set(name, 24);
    parts.push(out);
  }
  return Buffer.concat(parts);
}

export function encodeFileSystem(totalBytes: number): Buffer {
  const out = Buffer.alloc(80);
  out.writeBigUInt64LE(BigInt(Math.ceil(totalBytes / blockBytes)), 0);
  out.writeUInt32LE(blockBytes, 40);
  out.writeUInt32LE(255, 44);
  out.writeUInt32LE(blockBytes, 48);
  return out;
}

/** A value for whoever has room for it; null: it has not. With room 0 the length alone is asked for. */
export function encodeSized(value: Uint8Array, roomBytes: number): Uint8Array | null {
  if (roomBytes === 0) {
    const out = Buffer.alloc(8);
    out.writeUInt32LE(value.length, 0);
    return out;
  }
  return value.length > roomBytes ? null : value;
}
