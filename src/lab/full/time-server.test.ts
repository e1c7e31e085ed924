import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatTimeAnswer } from '#lab/full/time-server.ts';

test('a time answer repeats the question’s stamp and carries this host’s time since 1900', () => {
  const question = new Uint8Array(48).fill(0);
  question[0] = 0x23; // no warning, version 4, client
  question.set([1, 2, 3, 4, 5, 6, 7, 8], 40);
  const answer = formatTimeAnswer(question, 1_500, 2_250);
  const view = new DataView(answer.buffer);
  assert.equal(view.getUint8(0), 0x24); // version 4, server
  assert.deepEqual([...answer.subarray(24, 32)], [1, 2, 3, 4, 5, 6, 7, 8]);
  assert.deepEqual([view.getUint32(32), view.getUint32(36)], [2_208_988_801, 2 ** 31]);
  assert.deepEqual([view.getUint32(40), view.getUint32(44)], [2_208_988_802, 2 ** 30]);
});
