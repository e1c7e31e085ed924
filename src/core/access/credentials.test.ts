import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { test } from 'node:test';
import { isCsrfToken, makeCsrfToken, makeTicket, readCredentials, readTicket } from './credentials.ts';

const sign = (text: string): string => createHmac('sha256', 'key').update(text).digest('base64');
const isSame = (a: string, b: string): boolean => a === b;
const now = 1_800_000_000;

test('tokens are read with either separator, their secret percent-decoded', () => {
  for (const separator of [' ', '=']) {
    const read = readCredentials({ authorization: `PBSAPIToken${separator}u@pbs!t:se%3Acret` });
    assert.deepEqual(read, { kind: 'token', id: 'u@pbs!t', secret: 'se:cret' });
  }
  assert.deepEqual(readCredentials({ authorization: 'Bearer x' }), { kind: 'none' });
  assert.throws(() => readCredentials({ authorization: 'PBSAPIToken u@pbs!t:%zz' }), /percent-encoded/);
});

test('a ticket names its user for two hours, whichever cookie carries it', () => {
  const ticket = makeTicket('u@pbs', now + 0.25, sign);
  assert.match(ticket, /^PBS:u@pbs:6B49D200::/);
  for (const name of ['PBSAuthCookie', '__Host-PBSAuthCookie']) {
    const read = readCredentials({ cookie: `x=1; ${name}=${encodeURIComponent(ticket)}`, csrfpreventiontoken: 'c' });
    assert.deepEqual(read, { kind: 'ticket', ticket, csrf: 'c' });
  }
  assert.equal(readTicket(ticket, now + 7_200, sign, isSame), 'u@pbs');
  assert.equal(readTicket(ticket, now - 300, sign, isSame), 'u@pbs');
  assert.equal(readTicket(ticket, now + 7_201, sign, isSame), null);
  assert.equal(readTicket(ticket, now - 301, sign, isSame), null);
  assert.equal(readTicket(ticket.replace('u@', 'v@'), now, sign, isSame), null);
  const csrf = makeCsrfToken('u@pbs', now, sign);
  assert.ok(isCsrfToken(csrf, 'u@pbs', now, sign, isSame));
  assert.ok(!isCsrfToken(csrf, 'v@pbs', now, sign, isSame));
  assert.ok(!isCsrfToken(csrf, 'u@pbs', now + 8_000, sign, isSame));
});
