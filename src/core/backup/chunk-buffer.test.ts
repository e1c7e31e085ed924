import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createChance } from '#core/ha/seeded-chance.ts';
import { ChunkBuffer, chunkRoomBytes } from './chunk-buffer.ts';
import { createChunker } from './chunker.ts';

const average = 4096;

/** The sizes that the chunker alone says. */
function cutsOf(data: Uint8Array): number[] {
  const chunker = createChunker(average);
  const sizes: number[] = [];
  for (let at = 0; at < data.length;) {
    const cut = chunker.scan(data.subarray(at));
    sizes.push(cut === 0 ? data.length - at : cut);
    at += sizes.at(-1)!;
  }
  return sizes;
}

test('a stream is cut where the chunker says, in whatever pieces and ways it is written', () => {
  const chance = createChance(7);
  const data = Uint8Array.from({ length: 700_000 }, (_, at) => (at > 300_000 && at < 400_000 ? 0 : Math.floor(chance() * 256)));
  for (const most of [1, 97, 5_000, 300_000]) {
    const chunks: Uint8Array[] = [];
    const buffer = new ChunkBuffer(average, {
      takeRoom: () => new Uint8Array(chunkRoomBytes(average)),
      emit: (room, bytes) => chunks.push(room.subarray(0, bytes)),
    });
    for (let at = 0; at < data.length;) {
      const piece = data.subarray(at, at + most);
      if (at % 2 === 0) {
        buffer.write(piece);
        at += piece.length;
      } else {
        at += buffer.fill(piece.length, (room) => {
          room.set(piece.subarray(0, room.length));
          return Math.min(room.length, piece.length);
        });
      }
    }
    buffer.end();
    assert.deepEqual(
      chunks.map(({ length }) => length),
      cutsOf(data),
    );
    assert.deepEqual(Buffer.concat(chunks).equals(data), true);
  }
});
