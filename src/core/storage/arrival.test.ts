import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import { arrivalOf, isArriving, refuseArriving, withArrival, type Arrival } from './arrival.ts';
import { createPrimary, demoteToReplica, promoteTo, sealPoint, type Layer } from './manifest.ts';
import { formatManifest, parseManifest } from './manifest-text.ts';

const arrival: Arrival = {
  request: '1-a',
  target: 'vault',
  from: { vmid: 100, atSeconds: 5 },
  disks: { disk0: { chunkBytes: 4 << 20, csum: 'ab' } },
  isComplete: false,
  isNamed: false,
};
const layer = (file: string, format: Layer['format']): Layer => ({ file, format, sizeBytes: 1 << 20, sealed: null });
const layers = [layer('disk0-base.raw', 'raw'), layer('disk0-own.qcow2', 'qcow2')];
const made = withArrival(createPrimary(201, 1, [{ name: 'disk0', layers }]), arrival);

test('a copy of which not all is here says so until it is complete, and is refused for what needs whole disks', () => {
  const read = parseManifest(formatManifest(made), 'm');
  assert.deepEqual([isArriving(read), arrivalOf(read)], [true, arrival]);
  assert.throws(
    () => refuseArriving(read, 'replicate'),
    (error) => isAppError(error, 'busy'),
  );
  const whole = withArrival(made, { ...arrival, isComplete: true });
  assert.deepEqual(
    [made, whole].map((manifest) => (JSON.parse(formatManifest(manifest)) as { version: number }).version),
    [2, 1],
    'who knows nothing of arrivals must not open what is not whole',
  );
  const marked = formatManifest(made).replace('"isComplete": false', '"isComplete": true');
  assert.throws(() => parseManifest(marked, 'm'), /does not say from where/);
  refuseArriving(whole, 'replicate');
  refuseArriving(createPrimary(100, 1, []), 'replicate');
});

test('nobody is to guess where the rest of a disk comes from', () => {
  const lost = withArrival(made, { ...arrival, disks: {} });
  assert.throws(() => parseManifest(formatManifest(lost), 'm'), /nobody can tell where its disks come from/);
});

test('how disks came says nothing of what they are later: complete with another disk, demoted, or promoted from a point', () => {
  const grown = withArrival(createPrimary(201, 1, [...made.disks, { name: 'disk1', layers: [layers[0]!] }]), {
    ...arrival,
    isComplete: true,
  });
  assert.equal(isArriving(parseManifest(formatManifest(grown), 'm')), false);
  const replica = demoteToReplica(made, null);
  assert.equal(isArriving(parseManifest(formatManifest(replica), 'm')), false);
  const about = {
    source: 'n2',
    pointAtMs: 1,
    appliedAtMs: 1,
    configSha256: '',
    lastCycle: { kind: 'compare' as const, bytes: 0, tookMs: 0, pausedMs: 0 },
  };
  const sealed = sealPoint(replica, [{ disk: 'disk0', layer: layer('p.qcow2', 'qcow2') }], { generation: 2, seq: 1, ...about });
  const promoted = promoteTo(sealed, 3, sealed.points[0]!, [{ disk: 'disk0', layer: layer('o.qcow2', 'qcow2') }]);
  assert.equal(isArriving(promoted), false);
});
