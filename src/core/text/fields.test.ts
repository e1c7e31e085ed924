import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseChoice, parseFields, parseWholeNumber } from '#core/text/fields.ts';

const known = (key: string) => key === 'bridge' || key === 'mac';

test('fields are read in order', () => {
  assert.deepEqual(
    [...parseFields('bridge=br0, mac=a', 'nic', known, 'bridge=, mac=')],
    [
      ['bridge', 'br0'],
      ['mac', 'a'],
    ],
  );
});

test('an unknown, repeated or empty field is refused by name', () => {
  for (const [text, words] of [
    ['model=e1000', /^nic: unknown key "model"/],
    ['bridge=br0,bridge=br1', /^nic: bridge is given twice/],
    ['bridge=', /^nic: "bridge=" is not key=value/],
    ['br0', /^nic: "br0" is not key=value/],
  ] as const) {
    assert.throws(() => parseFields(text, 'nic', known, 'bridge='), { kind: 'invalid', message: words });
  }
});

test('numbers and choices out of range are refused by the name of their field', () => {
  assert.equal(parseWholeNumber('4', 'cores', 1, 64), 4);
  assert.equal(parseChoice('off', 'power', ['on', 'off']), 'off');
  for (const bad of ['0', '65', '1.5', '', '0x4']) {
    assert.throws(() => parseWholeNumber(bad, 'cores', 1, 64), { kind: 'invalid', message: /^cores: / }, bad);
  }
  assert.throws(() => parseChoice('maybe', 'power', ['on', 'off']), { message: 'power: "maybe" is none of on, off' });
});
