import { blobLimits } from '#core/backup/blob.ts';
import type { ByteRooms } from '#core/backup/byte-rooms.ts';
import { clientLimits } from './limits.ts';

/** What comes of an answer. */
export type AnswerCollector = {
  /** How long the answer is said to be; 0: that is not known. Node tells it at times only after the first pieces came. */
  expect(bytes: number): void;
  /** False: the answer is too long. */
  add(piece: Uint8Array): boolean;
  take(): Buffer;
  discard(): void;
};

/** An answer in a room of `rooms` if it was said how long it is, and is as long as a chunk at most; else in memory of its own. */
export function collectAnswer(rooms: ByteRooms | undefined): AnswerCollector {
  let pieces: Uint8Array[] = [];
  let room: Uint8Array | null = null;
  let length = 0;
  return {
    expect(bytes) {
      if (rooms === undefined || bytes < Math.max(1, length) || bytes > blobLimits.chunkBytes + blobLimits.headerBytes) return;
      room = rooms.take(bytes);
      let at = 0;
      for (const piece of pieces) {
        room.set(piece, at);
        at += piece.length;
      }
      pieces = [];
    },
    add(piece) {
      const start = length;
      length += piece.length;
      if (length > (room?.length ?? clientLimits.answerBytes)) return false;
      if (room === null) pieces.push(piece);
      else room.set(piece, start);
      return true;
    },
    take: () => (room === null ? Buffer.concat(pieces) : Buffer.from(room.buffer, room.byteOffset, length)),
    discard() {
      if (room !== null) rooms?.give(room);
      room = null;
    },
  };
}
