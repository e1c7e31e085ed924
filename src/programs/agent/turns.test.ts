import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createTurns } from '#programs/agent/turns.ts';

test('so much is done at a time, in the order it came; who leaves takes no turn', async () => {
  const turns = createTurns(2);
  const never = new AbortController().signal;
  const story: string[] = [];
  const take = async (name: string, signal = never): Promise<Disposable> => {
    const turn = await turns.take(signal, () => story.push(`${name} waits`));
    story.push(name);
    return turn;
  };
  const [a, b] = [await take('a'), await take('b')];
  const leaving = new AbortController();
  const [c, d, e] = [take('c'), take('d', leaving.signal), take('e')];
  leaving.abort(new Error('no more'));
  await assert.rejects(d, /no more/);
  a[Symbol.dispose]();
  a[Symbol.dispose](); // a second time gives nobody a turn
  const turn = await c;
  assert.deepEqual(story, ['a', 'b', 'c waits', 'd waits', 'e waits', 'c']);
  b[Symbol.dispose]();
  await e;
  turn[Symbol.dispose]();
  await assert.rejects(take('f', AbortSignal.abort(new Error('too late'))), /too late/);
  await take('g');
  assert.deepEqual(story.slice(6), ['e', 'g']);
});
