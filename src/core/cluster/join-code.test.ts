import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import { formatJoinCode, type JoinCode, parseJoinCode } from './join-code.ts';

const code: JoinCode = {
  role: 'node',
  id: '0a1b2c3d',
  secret: '0123456789abcdef0123456789abcdef',
  fingerprint: 'fe'.repeat(32),
  expiresAtMs: 1_800_000_000_000,
  address: '10.0.0.11',
  port: 7712,
};

test('a code comes back as it was made, for nodes and witnesses, over IPv4 and IPv6', () => {
  for (const variant of [code, { ...code, role: 'witness' as const }, { ...code, address: 'fd00::11' }]) {
    assert.deepEqual(parseJoinCode(formatJoinCode(variant)), variant);
  }
});

test('blanks and line ends of a pasted code do no harm', () => {
  const text = formatJoinCode(code);
  assert.deepEqual(parseJoinCode(`  ${text.slice(0, 40)}\n${text.slice(40)}\n`), code);
});

test('any one letter that is wrong is found, and no refusal repeats the code', () => {
  const text = formatJoinCode(code);
  for (let index = 0; index < text.length; index += 1) {
    const typed = `${text.slice(0, index)}${text[index] === '1' ? '2' : '1'}${text.slice(index + 1)}`;
    assert.throws(
      () => parseJoinCode(typed),
      (error) => isAppError(error, 'invalid') && !error.message.includes(code.secret),
      `letter ${index}`,
    );
  }
  assert.throws(
    () => parseJoinCode(text.slice(0, -7)),
    (error) => isAppError(error, 'invalid'),
  );
});
