import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createByteRooms } from '#core/backup/byte-rooms.ts';
import { collectAnswer } from './answer-collector.ts';

test('an answer is whole, whether its length is told before its first piece, after it, or never', () => {
  const rooms = createByteRooms();
  const pieces = [Buffer.from('first '), Buffer.from('second '), Buffer.from('third')];
  const whole = Buffer.concat(pieces);
  for (const toldAfter of [0, 1, 2, 3, null]) {
    const dirty = rooms.take(whole.length);
    dirty.fill(0xff);
    rooms.give(dirty);
    const answer = collectAnswer(rooms);
    for (const [number, piece] of pieces.entries()) {
      if (number === toldAfter) answer.expect(whole.length);
      assert.ok(answer.add(piece));
    }
    if (toldAfter === pieces.length) answer.expect(whole.length);
    const taken = answer.take();
    assert.ok(taken.equals(whole), `told after ${toldAfter}`);
    rooms.give(taken);
  }
});

test('an answer that is longer than it was said to be is refused, and its memory is used again', () => {
  const rooms = createByteRooms();
  const answer = collectAnswer(rooms);
  answer.expect(4);
  assert.ok(answer.add(Buffer.from('abcd')));
  assert.equal(answer.add(Buffer.from('e')), false);
  const { buffer } = answer.take();
  answer.discard();
  assert.equal(rooms.take(4).buffer, buffer);
});
