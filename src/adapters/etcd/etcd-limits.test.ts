import assert from 'node:assert/strict';
import { test } from 'node:test';
import { limits } from '#base/limits.ts';
import { etcdTiming } from './etcd-arguments.ts';

test('a call has time for a member that does not shake hands and for one that does not answer', () => {
  assert(limits.etcdCallMs >= 2 * limits.etcdConnectMs);
  assert(limits.etcdCallMs >= 3 * limits.etcdHedgeMs); // three members, one after the other
});

test('a watch is given up only after several signs of life were missed, and later than a heartbeat of etcd may be', () => {
  assert(limits.watchSilenceMs >= 3 * limits.watchProgressMs);
  assert(limits.watchSilenceMs > etcdTiming.electionMs);
});
