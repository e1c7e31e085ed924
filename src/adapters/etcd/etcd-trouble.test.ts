import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Code, ConnectError } from '@connectrpc/connect';
import { isAppError } from '#base/error.ts';
import { NotSent } from './etcd-connection.ts';
import { pickTelling, sortCallError } from './etcd-trouble.ts';

const tls = { caFile: '/pki/ca.pem', certFile: '/pki/node.pem', keyFile: '/pki/node.key' };
const sort = (error: unknown) => sortCallError(error, 'commit /a', 'https://10.0.0.1:2379', tls);

test('whatever may have reached etcd is lost, not refused', () => {
  for (const code of [Code.DeadlineExceeded, Code.Aborted, Code.Canceled, Code.Unavailable, Code.Internal, Code.Unknown]) {
    assert.equal(sort(new ConnectError('', code)).kind, 'lost');
  }
  for (const text of ['etcdserver: leader changed', 'etcdserver: request timed out, possibly due to previous leader failure']) {
    assert.equal(sort(new ConnectError(text, Code.Unavailable)).kind, 'lost');
  }
  assert.equal(sort(new Error('something')).kind, 'lost');
});

test('only what never left, or was refused before it was proposed, is certainly not applied', () => {
  const wrapped = new ConnectError('cannot connect', Code.Internal);
  wrapped.cause = new NotSent('connect', { cause: new Error('refused') });
  assert.equal(sort(wrapped).kind, 'not-applied');
  assert.equal(sort(new NotSent('connect')).kind, 'not-applied');
  assert.equal(sort(new ConnectError('etcdserver: no leader', Code.Unavailable)).kind, 'not-applied');
});

test('a refused certificate names its file and is no reason to ask another member', () => {
  const alert = Object.assign(new Error('alert number 42'), { code: 'ERR_SSL_SSL/TLS_ALERT_BAD_CERTIFICATE' });
  const trouble = sort(new NotSent('connect', { cause: alert }));
  assert(trouble.kind === 'refused');
  assert(isAppError(trouble.error, 'unauthenticated') && trouble.error.message.includes(tls.certFile));
});

test('a full store is told as what it is', () => {
  const trouble = sort(new ConnectError('etcdserver: mvcc: database space exceeded', Code.ResourceExhausted));
  assert(trouble.kind === 'refused' && trouble.error.kind === 'unavailable' && trouble.error.message.includes('quota'));
});

test('a last attempt without time does not hide why the ones before it failed', () => {
  const told = new ConnectError('etcdserver: no leader', Code.Unavailable);
  const cutShort = new NotSent('no connection in time');
  assert.equal(pickTelling(undefined, cutShort), cutShort);
  assert.equal(pickTelling(told, cutShort), told);
  assert.equal(pickTelling(cutShort, told), told);
  const badServer = new NotSent('connect', { cause: Object.assign(new Error(''), { code: 'SELF_SIGNED_CERT_IN_CHAIN' }) });
  assert.equal(pickTelling(badServer, told), badServer);
});
