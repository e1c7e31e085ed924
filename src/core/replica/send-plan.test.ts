import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { planSend, refuseSender, type TargetCopy } from './send-plan.ts';

const disks = [{ name: 'disk0', sizeBytes: 1 << 20 }];
const copyAt = (generation: number, seq: number): TargetCopy => ({
  role: 'replica',
  generation,
  point: { generation, seq },
  disks,
});

test('a delta goes only onto the point the bitmap counts from, or onto the one whose answer was lost', () => {
  const basis = { base: { generation: 2, seq: 7 }, pending: { generation: 2, seq: 8 } };
  assert.equal(planSend(2, disks, basis, copyAt(2, 7)).kind, 'delta');
  assert.equal(planSend(2, disks, basis, copyAt(2, 8)).kind, 'delta');
  assert.equal(planSend(2, disks, basis, copyAt(2, 6)).kind, 'compare');
  assert.equal(planSend(2, disks, basis, copyAt(1, 7)).kind, 'compare');
});

test('without a usable basis it compares and says why', () => {
  assert.match(planSend(1, disks, null, copyAt(1, 1)).because, /no bitmap/);
  assert.match(planSend(1, disks, { base: null, pending: null }, copyAt(1, 1)).because, /start of the guest/);
  const resized = { ...copyAt(1, 1), disks: [{ name: 'disk0', sizeBytes: 2 << 20 }] };
  assert.match(planSend(1, disks, { base: { generation: 1, seq: 1 }, pending: null }, resized).because, /resized/);
  assert.equal(planSend(1, disks, null, { role: 'absent', generation: 0, point: null, disks: [] }).kind, 'compare');
});

test('never sends onto a primary copy or one that has seen a newer generation', () => {
  assert.equal(planSend(1, disks, null, { ...copyAt(1, 1), role: 'primary' }).kind, 'refuse');
  assert.equal(planSend(1, disks, { base: { generation: 2, seq: 1 }, pending: null }, copyAt(2, 1)).kind, 'refuse');
});

test('a receiver accepts only points that move it forward', () => {
  const point = fc.record({ generation: fc.nat(5), seq: fc.nat(5) });
  fc.assert(
    fc.property(point, point, (sent, newest) => {
      const refused = refuseSender(sent, { role: 'replica', generation: newest.generation, newest });
      const forward = sent.generation > newest.generation || (sent.generation === newest.generation && sent.seq > newest.seq);
      assert.equal(refused === null, forward);
    }),
  );
  assert.notEqual(refuseSender({ generation: 9, seq: 9 }, { role: 'primary', generation: 1, newest: null }), null);
  assert.equal(refuseSender({ generation: 1, seq: 1 }, null), null);
});
