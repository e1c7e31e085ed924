import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseHolds, parseListing, parseOwnProperties, parseToken } from './listing.ts';

/** Captured from OpenZFS 2.3.9. */
const token = '1-1140b4da7a-108-789c636064000310a500c4ec50360710e72765a5269740f80cd8e4d3d28a5381f20c0de5';
const listed = `tank/holdfast/vm-100	filesystem	12520797273882477912	8	1795393186	32081280	130944	-	-	-	-	-	-
tank/holdfast/vm-100/disk0	volume	15246417706160449766	10	1795393187	31808480	0	-	-	-	-	67108864	-
tank/holdfast/vm-100/disk0@hf-1-2	snapshot	8923065773372330936	28	1795393209	0	10650112	-	0	-	-	67108864	1700000000124
tank/holdfast/vm-100/disk0@hf-1-1	snapshot	1339857141316152389	21	1795393198	10650112	21158368	-	1	tank/holdfast/vm-100/left-behind-g1.disk0	-	67108864	1700000000123
tank/holdfast/vm-100/disk0#t-n2-1-1	bookmark	1339857141316152389	21	1795393198	-	-	-	-	-	-	-	-
tank/holdfast/vm-100/left-behind-g1.disk0	volume	14341755479621482748	29	1795393210	10912	10912	tank/holdfast/vm-100/disk0@hf-1-1	-	-	-	67108864	-
tank/b/disk0	volume	3183343557023791101	34	1795393214	7960304	7960304	-	-	-	${token}	0	-
`;

test('datasets are read with their snapshots and bookmarks in the order in which they were made', () => {
  const [guest, disk, tail, cut] = parseListing(listed);
  assert.deepEqual([guest?.type, guest?.sizeBytes, guest?.versions], ['filesystem', null, []]);
  assert.deepEqual(
    disk?.versions.map(({ kind, name }) => `${kind} ${name}`),
    ['snapshot hf-1-1', 'bookmark t-n2-1-1', 'snapshot hf-1-2'],
  );
  assert.deepEqual(disk?.versions[0], {
    kind: 'snapshot',
    name: 'hf-1-1',
    guid: '1339857141316152389',
    createtxg: 21,
    createdAtMs: 1_795_393_198_000,
    writtenBytes: 21_158_368,
    clones: ['tank/holdfast/vm-100/left-behind-g1.disk0'],
    holds: 1,
    pointAtMs: 1_700_000_000_123,
  });
  assert.equal(tail?.origin, 'tank/holdfast/vm-100/disk0@hf-1-1');
  assert.deepEqual([cut?.resumeToken, cut?.writtenBytes, cut?.versions.length], [token, 7_960_304, 0]);
  assert.throws(() => parseListing('tank\tvolume\n'), /zfs list: 2 columns/);
});

test('properties of ours are told from others, with tabs and equal signs in their values', () => {
  const output =
    'tank/holdfast\tmountpoint\tnone\ntank/holdfast/vm-100\tholdfast:copy.0\t{"a":"=x"}\ntank/holdfast/vm-100\tholdfast:copy\t1 5\n';
  const found = parseOwnProperties(output);
  assert.deepEqual([...found.keys()], ['tank/holdfast/vm-100']);
  assert.deepEqual(Object.fromEntries(found.get('tank/holdfast/vm-100') ?? []), {
    'holdfast:copy.0': '{"a":"=x"}',
    'holdfast:copy': '1 5',
  });
});

test('a token tells which snapshot was on its way and how much of it arrived', () => {
  const output = `resume token contents:
nvlist version: 0
	object = 0x1
	offset = 0x778000
	bytes = 0x7a0a38
	toguid = 0x129820f89deb6c45
	toname = tank/holdfast/vm-100/disk0@hf-1-1
	embedok = 1
	compressok = 1
full	tank/holdfast/vm-100/disk0@hf-1-1	13296592
size	13296592
`;
  assert.deepEqual(parseToken(output), {
    toGuid: '1339857141316152389',
    toName: 'tank/holdfast/vm-100/disk0@hf-1-1',
    receivedBytes: 7_998_008,
  });
  assert.equal(parseToken('cannot resume send: resume token is corrupt\n'), null);
});

test('holds are read by snapshot and tag', () => {
  const output =
    'shed/h@a\tholdfast-cut-n2\tMon Nov 23 05:11 2026\n' +
    'shed/h@a\tholdfast\tMon Nov 23 05:11 2026\n' +
    'shed/hlong@b\tholdfast\tMon Nov 23 05:11 2026\n';
  assert.deepEqual(parseHolds(output), [
    { of: 'shed/h', name: 'a', tag: 'holdfast-cut-n2' },
    { of: 'shed/h', name: 'a', tag: 'holdfast' },
    { of: 'shed/hlong', name: 'b', tag: 'holdfast' },
  ]);
  assert.deepEqual(parseHolds(''), []);
});
