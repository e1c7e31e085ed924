import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hasBegunToMake, type RequestRecord } from '#core/ha/requests.ts';

function request(patch: object): RequestRecord {
  const progress = { text: '', doneBytes: null, totalBytes: null };
  return {
    id: '1',
    node: 'n1',
    createdAtMs: 0,
    kind: 'guest-create',
    vmid: 100,
    state: 'running',
    progress,
    ...patch,
  } as RequestRecord;
}

test('what has begun to make a guest on its node ends with the guest; what waits, or only changes it, does not', () => {
  assert.ok(hasBegunToMake(request({}), 'n1', 100));
  assert.ok(hasBegunToMake(request({ kind: 'guest-restore' }), 'n1', 100));
  const others = [
    { state: 'waiting' },
    { state: 'done', result: [] },
    { node: 'n2' },
    { vmid: 101 },
    { kind: 'guest-restore', over: true },
    { kind: 'guest-restore', live: true },
    { kind: 'guest-backup' },
    { kind: 'guest-delete' },
  ];
  for (const other of others) assert.ok(!hasBegunToMake(request(other), 'n1', 100), JSON.stringify(other));
});
