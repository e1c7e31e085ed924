import assert from 'node:assert/strict';
import { test } from 'node:test';
import { forecastUse, judgePool, planScrub, refuseCopy } from './pool-health.ts';
import { parseEventLine, parseImportable, parsePoolList, parsePoolStatus } from './pool-status.ts';

/** Captured from OpenZFS 2.3.9: a pool of three disks of 2 GiB. */
const config = (rows: string) => `config:

	NAME                                     STATE     READ WRITE CKSUM
${rows}
errors: No known data errors
`;
const one = (state: string, second: string) => `	tank                                     ${state}     0     0     0
	  raidz1-0                               ${state}     0     0     0
	    /dev/disk/by-id/virtio-SPARE1-part1  ONLINE       0     0     0
${second}
	    /dev/disk/by-id/virtio-SPARE3-part1  ONLINE       0     0     0
`;
const healthy = one('ONLINE', '	    /dev/disk/by-id/virtio-SPARE2-part1  ONLINE       0     0     0');
const fresh = `  pool: tank
 state: ONLINE
${config(healthy)}`;
const scrubbing = `  pool: tank
 state: ONLINE
  scan: scrub in progress since Mon Nov 23 00:21:36 2026
	169M / 170M scanned, 488K / 170M issued at 488K/s
	0B repaired, 0.28% done, no estimated completion time
${config(healthy)}`;
const erring = `  pool: tank
 state: ONLINE
status: One or more devices has experienced an unrecoverable error.  An
	attempt was made to correct the error.  Applications are unaffected.
action: Determine if the device needs to be replaced, and clear the errors
	using 'zpool clear' or replace the device with 'zpool replace'.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-9P
  scan: scrub repaired 0B in 00:00:11 with 0 errors on Mon Nov 23 00:21:47 2026
${config(one('ONLINE', '	    /dev/disk/by-id/virtio-SPARE2-part1  ONLINE       0    84     0'))}`;
const removed = `  pool: tank
 state: DEGRADED
status: One or more devices have been removed.
	Sufficient replicas exist for the pool to continue functioning in a
	degraded state.
action: Online the device using zpool online' or replace the device with
	'zpool replace'.
  scan: scrub repaired 0B in 00:00:11 with 0 errors on Mon Nov 23 00:21:47 2026
${config(one('DEGRADED', '	    /dev/disk/by-id/virtio-SPARE2-part1  REMOVED      0     0     0'))}`;
const resilvering = `  pool: tank
 state: DEGRADED
status: One or more devices is currently being resilvered.  The pool will
	continue to function, possibly in a degraded state.
action: Wait for the resilver to complete.
  scan: resilver in progress since Mon Nov 23 00:22:51 2026
	184M / 184M scanned, 584K / 184M issued at 97.3K/s
	380K resilvered, 0.31% done, no estimated completion time
${config(
  one(
    'DEGRADED',
    `	    replacing-1                            DEGRADED     0     0     0
	      /dev/disk/by-id/virtio-SPARE2-part1  REMOVED      0     0     0
	      /dev/disk/by-id/virtio-SPARE4-part1  ONLINE       0     0     0  (resilvering)`,
  ),
)}`;
const resilvered = `  pool: tank
 state: ONLINE
  scan: resilvered 62.7M in 00:00:40 with 0 errors on Mon Nov 23 00:23:31 2026
${config(healthy)}`;

const use = parsePoolList('tank\t5905580032\t876544\t5904703488\t0\t0\tONLINE\t1309279584484809666\n')[0]!;

test('a pool is read with its disks, its scan and its words', () => {
  assert.deepEqual(use, {
    name: 'tank',
    sizeBytes: 5_905_580_032,
    allocatedBytes: 876_544,
    usedPercent: 0,
    health: 'ONLINE',
    guid: '1309279584484809666',
  });
  const pool = parsePoolStatus(fresh);
  assert.deepEqual([pool.name, pool.state, pool.scan, pool.status, pool.lostData], ['tank', 'ONLINE', null, null, null]);
  assert.deepEqual(
    pool.devices.map(({ depth }) => depth),
    [0, 1, 2, 2, 2],
  );
  assert.equal(pool.devices[3]?.name, '/dev/disk/by-id/virtio-SPARE2-part1');
  assert.deepEqual(parsePoolStatus(scrubbing).scan, {
    kind: 'scrub',
    state: 'running',
    progress: 0.0028000000000000004,
    repaired: null,
    errors: null,
    when: 'Mon Nov 23 00:21:36 2026',
  });
  assert.deepEqual(parsePoolStatus(resilvered).scan, {
    kind: 'resilver',
    state: 'finished',
    progress: 1,
    repaired: '62.7M',
    errors: 0,
    when: 'Mon Nov 23 00:23:31 2026',
  });
  assert.throws(() => parsePoolStatus('no pools available\n'), /no pool in/);
});

test('a fine pool has nothing to tell; each fault is told with its next action', () => {
  const judge = (text: string) => judgePool(parsePoolStatus(text), use, null);
  assert.deepEqual(judge(fresh), { level: 'fine', problems: [] });
  assert.deepEqual(judge(scrubbing).level, 'fine');
  assert.deepEqual(judge(erring).problems, [
    {
      what: 'disk /dev/disk/by-id/virtio-SPARE2-part1 is ONLINE, 84 errors',
      next: 'replace it: holdfast pool replace tank /dev/disk/by-id/virtio-SPARE2-part1 NEW-DISK',
    },
  ]);
  assert.equal(judge(removed).problems[0]?.what, 'disk /dev/disk/by-id/virtio-SPARE2-part1 is REMOVED');
  assert.deepEqual(
    judge(resilvering).problems.map(({ next }) => next),
    ['wait for the resilver that runs', 'wait; one more failed disk now would lose the pool'],
  );
  assert.equal(judge(resilvered).level, 'fine');
  assert.equal(judge(fresh.replace(' state: ONLINE', ' state: SUSPENDED')).level, 'lost');
  assert.match(
    judge(fresh.replace('No known data errors', '2 data errors, use -v')).problems[0]?.what ?? '',
    /beyond repair: 2 data/,
  );
});

test('events are told by their class', () => {
  const line = 'Nov 23 2026 00:22:09.039870583\tresource.fs.zfs.statechange';
  assert.equal(parseEventLine(line), 'resource.fs.zfs.statechange');
  assert.equal(parseEventLine('TIME                           CLASS'), null);
});

test('a pool takes no further copies from 85 % on, no points from 92 % on', () => {
  const at = (usedPercent: number, isFirst: boolean) => refuseCopy({ name: 'tank', usedPercent }, isFirst) === null;
  assert.deepEqual([at(84, true), at(85, true), at(85, false), at(91, false), at(92, false)], [true, false, true, true, false]);
  const full = judgePool(parsePoolStatus(fresh), { ...use, usedPercent: 93 }, null);
  assert.match(full.problems[0]?.what ?? '', /93 % full: its guests are not copied/);
});

const dayMs = 86_400_000;

test('the forecast follows the line through the samples, and tells nothing from too few', () => {
  const samples = [0, 1, 2, 3, 4].map((day) => ({ atMs: day * dayMs, allocatedBytes: 500 + day * 10 }));
  assert.deepEqual(forecastUse(samples, 1_000), { bytesPerDay: 10, daysLeft: 31 });
  assert.equal(forecastUse(samples.slice(0, 2), 1_000), null);
  const shrinking = samples.map((sample) => ({ ...sample, allocatedBytes: 1_000 - sample.allocatedBytes }));
  assert.equal(forecastUse(shrinking, 1_000)?.daysLeft, null);
  const soon = judgePool(parsePoolStatus(fresh), use, { bytesPerDay: 10, daysLeft: 12.5 });
  assert.match(soon.problems[0]?.what ?? '', /reaches 85 % in 12 days/);
});

test('a scrub is due once a month, in the small hours, on one node at a time, and not put off for ever', () => {
  const facts = { lastEndedAtMs: 0, firstSeenAtMs: 0, isScanRunning: false, isOtherNodeScrubbing: false, everyDays: 30 };
  const at = (day: number, hour: number, change = {}) => planScrub({ ...facts, ...change }, { atMs: day * dayMs, hour });
  assert.deepEqual([at(29, 3), at(31, 12), at(31, 3), at(41, 12)], ['wait', 'wait', 'start', 'start']);
  assert.deepEqual([at(50, 3, { isScanRunning: true }), at(50, 3, { isOtherNodeScrubbing: true })], ['wait', 'wait']);
  assert.equal(at(31, 3, { lastEndedAtMs: null, firstSeenAtMs: 20 * dayMs }), 'wait');
});

/** Captured from OpenZFS 2.3.9; the words of the second are those of zpool_main.c. */
const offered = `  pool: tank
    id: 17679391456905384563
 state: ONLINE
action: The pool can be imported using its name or numeric identifier.
config:

	tank               ONLINE
	  raidz1-0         ONLINE
	    virtio-SPARE1  ONLINE
	    virtio-SPARE2  ONLINE
	    virtio-SPARE3  ONLINE

  pool: old
    id: 9
 state: DEGRADED
status: The pool was last accessed by another system.
action: The pool can be imported despite missing or damaged devices using its name or
	numeric identifier and the '-f' flag.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-EY
config:

	old   DEGRADED
`;

test('pools that could be imported are read, with whether another machine used them last', () => {
  const found = parseImportable(offered).map(({ name, state, lastUsedElsewhere }) => [name, state, lastUsedElsewhere]);
  assert.deepEqual(found, [
    ['tank', 'ONLINE', false],
    ['old', 'DEGRADED', true],
  ]);
  assert.equal(parseImportable(offered)[0]?.guid, '17679391456905384563');
  assert.deepEqual(parseImportable(''), []);
});
