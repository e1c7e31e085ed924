import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { createChance } from '#core/ha/seeded-chance.ts';
import { formatHex } from './bytes.ts';
import { makeBuzhashTable } from './buzhash-table.ts';
import { formatCanonicalJson } from './canonical-json.ts';
import { DigestTable } from './digest-table.ts';

const digestOf = (number: number): Uint8Array => Uint8Array.from(createHash('sha256').update(String(number)).digest());

test('a table of digests agrees with a map through additions and removals', () => {
  const chance = createChance(3);
  const table = new DigestTable(12_345);
  const model = new Map<string, number>();
  for (let step = 0; step < 20_000; step += 1) {
    const digest = digestOf(Math.floor(chance() * 3_000));
    const hex = formatHex(digest);
    if (chance() < 0.55) {
      const number = table.add(digest);
      assert.equal(number, model.get(hex) ?? number);
      model.set(hex, number);
    } else {
      assert.equal(table.remove(digest), model.get(hex) ?? -1);
      model.delete(hex);
    }
    assert.equal(table.size, model.size);
  }
  for (const [hex, number] of model) assert.equal(formatHex(table.at(number) ?? new Uint8Array()), hex);
  assert.equal(new Set(model.values()).size, model.size);
  for (let number = 0; number < 3_000; number += 1) {
    const digest = digestOf(number);
    assert.equal(table.find(digest), model.get(formatHex(digest)) ?? -1);
  }
});

test('the words of the rolling hash are those of the format', () => {
  const table = makeBuzhashTable();
  const bytes = new Uint8Array(1024);
  for (const [index, word] of table.entries()) new DataView(bytes.buffer).setInt32(index * 4, word, true);
  const sha = createHash('sha256').update(bytes).digest('hex');
  assert.equal(sha, '5b52080d38287da9d2e278466e3e0db7ec98e5e8b226f50612a56fa012b1f660');
  assert.equal(
    table.reduce((sum, word) => sum ^ word, 0),
    0,
  );
});

test('canonical JSON sorts keys bytewise and refuses what other languages print otherwise', () => {
  const text = formatCanonicalJson({ b: [1, true, 'x\n"\u0001é'], a: { '😀': 1, '\uffff': 2 } });
  assert.equal(text, '{"a":{"\uffff":2,"😀":1},"b":[1,true,"x\\n\\"\\u0001é"]}');
  for (const bad of [null, 1.5, 2 ** 60, -0, '\ud800', Number.NaN]) assert.throws(() => formatCanonicalJson({ a: bad }), /a: /);
});
