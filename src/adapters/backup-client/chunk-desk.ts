import { readSync, writeSync } from 'node:fs';
import { AppError } from '#base/error.ts';
import { encodeBlob } from '#core/backup/blob.ts';
import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import { chunkDigest, type CryptKey } from '#core/backup/crypt-key.ts';
import { fixedChunkBytes } from '#core/backup/index-writer.ts';
import { openChunk } from '#core/backup/snapshot-check.ts';
import type { ChunkAnswer, ChunkOrder, TargetFile } from './chunk-jobs.ts';
import { allocateAligned, isAligned } from './native.ts';

type Held = { data: Uint8Array; room: ArrayBuffer | null };
const zeros = Buffer.alloc(fixedChunkBytes);
/** What memory, place and length of a direct write are multiples of, on every disk. */
const directBytes = 4_096;

/** The work on chunks, one order after the other. Synchronous: it belongs in a worker. */
export class ChunkDesk {
  readonly #key: CryptKey | null;
  readonly #functions: ByteFunctions;
  /** Of these the result of a decompression is good until the next one. */
  readonly #shortLived: ByteFunctions;
  readonly #randomBytes: (count: number) => Uint8Array;
  readonly #held = new Map<number, Held>();
  /** Buffers for pieces of images, used again and again: fresh memory costs more than the copy into it. */
  readonly #spare: Buffer[] = [];
  #zeroDigest: Uint8Array | null = null;
  #aligned: Uint8Array = new Uint8Array();

  constructor(
    key: CryptKey | null,
    functions: { lasting: ByteFunctions; shortLived: ByteFunctions },
    randomBytes: (count: number) => Uint8Array,
  ) {
    this.#key = key;
    this.#functions = functions.lasting;
    this.#shortLived = functions.shortLived;
    this.#randomBytes = randomBytes;
  }

  /** Carries out one order; the answer, and what changes hands with it. */
  carryOut(order: ChunkOrder): { answer: ChunkAnswer; moved: ArrayBuffer[] } {
    const { number } = order;
    switch (order.kind) {
      case 'read':
        return this.#hold(number, { data: this.#read(order.fd, order.at, order.bytes), room: null });
      case 'take':
        return this.#hold(number, { data: new Uint8Array(order.room, 0, order.bytes), room: order.room });
      case 'encode': {
        const held = this.#letGo(number);
        const crypt = this.#key === null ? null : { key: this.#key, iv: this.#randomBytes(16) };
        const encoded = encodeBlob(held.data, { compress: true, crypt }, this.#functions);
        this.#keepSpare(held);
        const { room } = held;
        return { answer: { kind: 'encoded', number, encoded, room }, moved: [...movable(encoded), ...given(room)] };
      }
      case 'drop': {
        const held = this.#letGo(number);
        this.#keepSpare(held);
        return { answer: { kind: 'dropped', number, room: held.room }, moved: given(held.room) };
      }
      case 'open': {
        if (order.target === null) {
          const opened = openChunk(order.encoded, order.expected, this.#key, this.#functions);
          const data = opened.buffer instanceof SharedArrayBuffer ? opened.slice() : opened; // that memory gets another chunk
          return { answer: { kind: 'opened', number, data }, moved: movable(data) };
        }
        this.#write(order.target, openChunk(order.encoded, order.expected, this.#key, this.#shortLived));
        return { answer: { kind: 'opened', number, data: null }, moved: [] };
      }
    }
  }

  #hold(number: number, held: Held): { answer: ChunkAnswer; moved: ArrayBuffer[] } {
    this.#held.set(number, held);
    return { answer: { kind: 'digest', number, digest: this.#digest(held.data), sizeBytes: held.data.length }, moved: [] };
  }

  /** Images are full of zeros: to see that is much cheaper than a hash. */
  #digest(data: Uint8Array): Uint8Array {
    if (data.length !== zeros.length || !zeros.equals(data)) return chunkDigest(data, this.#key, this.#functions);
    this.#zeroDigest ??= chunkDigest(zeros, this.#key, this.#functions);
    return this.#zeroDigest;
  }

  #letGo(number: number): Held {
    const held = this.#held.get(number);
    if (held === undefined) throw new AppError('conflict', `chunk ${number}: nobody holds it`);
    this.#held.delete(number);
    return held;
  }

  #keepSpare({ data, room }: Held): void {
    if (room === null && data.byteLength === fixedChunkBytes)
      this.#spare.push(Buffer.from(data.buffer, data.byteOffset, data.length));
  }

  /** Past the page cache where that can be: it saves a copy, and the cache stays with those who read. */
  #write({ fd, direct, at }: TargetFile & { at: number }, data: Uint8Array): void {
    if (direct === null || at % directBytes !== 0 || data.length % directBytes !== 0) return writeFully(fd, at, data);
    if (isAligned(data, directBytes)) return writeFully(direct, at, data);
    if (this.#aligned.length < data.length) this.#aligned = allocateAligned(data.length, directBytes);
    this.#aligned.set(data);
    writeFully(direct, at, this.#aligned.subarray(0, data.length));
  }

  #read(fd: number, at: number, bytes: number): Uint8Array {
    const buffer = (bytes === fixedChunkBytes ? this.#spare.pop() : undefined) ?? Buffer.allocUnsafeSlow(bytes);
    let filled = 0;
    while (filled < bytes) {
      const read = expecting(`image: reading at byte ${at + filled}`, () =>
        readSync(fd, buffer, filled, bytes - filled, at + filled),
      );
      if (read === 0) throw new AppError('conflict', `image: it became shorter while it was read (at byte ${at + filled})`);
      filled += read;
    }
    return buffer;
  }
}

function writeFully(fd: number, at: number, data: Uint8Array): void {
  for (let done = 0; done < data.length;) {
    done += expecting(`target: writing at byte ${at + done}`, () => writeSync(fd, data, done, data.length - done, at + done));
  }
}

/** What a disk may do. Raises AppError unavailable. */
function expecting<Result>(doing: string, call: () => Result): Result {
  try {
    return call();
  } catch (cause) {
    throw new AppError('unavailable', doing, { cause });
  }
}

/** The memory behind `bytes`, if all of it is theirs. */
function movable(bytes: Uint8Array): ArrayBuffer[] {
  const { buffer } = bytes;
  return buffer instanceof ArrayBuffer && bytes.byteLength === buffer.byteLength ? [buffer] : [];
}

function given(room: ArrayBuffer | null): ArrayBuffer[] {
  return room === null ? [] : [room];
}
