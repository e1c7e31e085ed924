import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as commands from './commands.ts';
import { listingColumns } from './listing.ts';
import {
  diskDataset,
  guestDataset,
  passingDataset,
  parseGuestChild,
  parsePointBookmark,
  parsePoolName,
  parseRootDataset,
  parseSnapshotName,
  parseTargetBookmark,
  pointBookmark,
  snapshotName,
  tailDataset,
  targetBookmark,
  vmidOf,
} from './names.ts';

const point = { generation: 3, seq: 41 };

test('every name that is made is read back', () => {
  assert.deepEqual(parseSnapshotName(snapshotName(point)), point);
  assert.deepEqual(parseTargetBookmark(targetBookmark('n-2', point)), { node: 'n-2', point });
  assert.deepEqual(parsePointBookmark(pointBookmark(point)), point);
  const guest = guestDataset('tank/holdfast', 100);
  assert.equal(vmidOf('tank/holdfast', guest), 100);
  assert.deepEqual(parseGuestChild(guest, diskDataset('tank/holdfast', 100, 'disk0')), { disk: 'disk0', of: 'live' });
  const tail = tailDataset('tank/holdfast', 100, 'left-behind-g3-41', 'disk1');
  assert.deepEqual(parseGuestChild(guest, tail), { disk: 'disk1', of: 'tail', tail: 'left-behind-g3-41' });
  const replaced = tailDataset('tank/holdfast', 100, 'replaced-0000001-ab', 'disk1');
  assert.deepEqual(parseGuestChild(guest, replaced), { disk: 'disk1', of: 'tail', tail: 'replaced-0000001-ab' });
  for (const use of ['next', 'look'] as const)
    assert.deepEqual(parseGuestChild(guest, passingDataset('tank/holdfast', 100, 'disk1', use, 17)), { disk: 'disk1', of: use });
  assert.equal(parseGuestChild(guest, `${guest}/Somebody_else`), null);
  assert.equal(vmidOf('tank/holdfast', 'tank/holdfast/vm-100/disk0'), null);
});

test('names that ZFS would take for something else are refused with the field named', () => {
  for (const name of ['', '1tank', 'mirror', 'raidz1', 'spare', 'tank/x', 'tank pool', '-f']) {
    assert.throws(() => parsePoolName(name, 'pool'), /pool: .* is not a pool's name/);
  }
  for (const name of ['tank', 'tank/', '/tank/x', 'tank/x@y', 'tank/-x', 'tank/x y']) {
    assert.throws(() => parseRootDataset(name, 'storage.dataset'), /storage\.dataset/);
  }
  assert.throws(() => tailDataset('tank/h', 100, '../x', 'disk0'), /not the name of a tail/);
});

/** One of each command that can be made. */
function makeEach() {
  const disk = 'tank/holdfast/vm-100/disk0';
  return [
    commands.listGuest('tank/holdfast/vm-100', listingColumns),
    commands.readOwnProperties('tank/holdfast', 1),
    commands.readNumber(disk, 'written', { of: disk, snapshot: 'hf-1-1' }),
    commands.setOwnProperties('tank/holdfast/vm-100', { 'holdfast:copy': '1 2' }),
    commands.setDiskProperties(disk, [{ readonly: 'off' }, { volmode: 'dev' }]),
    commands.createFolder('tank/holdfast', { parents: true, isUnfinished: true }),
    commands.createVolume(disk, 1 << 20, 16_384),
    commands.createFileDisk(disk, 65_536),
    commands.resizeVolume(disk, 2 << 20),
    commands.mountDataset(disk),
    commands.unmountDataset(disk),
    commands.takeSnapshot([disk], 'hf-1-1', { 'holdfast:at': '5' }),
    commands.destroySnapshots(disk, ['hf-1-1', 'hf-1-2']),
    commands.takeBookmark(disk, 'hf-1-1', 't-n2-1-1'),
    commands.destroyBookmark(disk, 't-n2-1-1'),
    commands.destroyDataset('tank/holdfast/vm-100/left-behind-g1.disk0'),
    commands.holdSnapshots([disk], 'hf-1-1', 'holdfast'),
    commands.releaseSnapshots([{ of: disk, name: 'hf-1-1' }], 'holdfast'),
    commands.rollbackTo(disk, 'hf-1-1'),
    ...(['filesystem', 'volume'] as const).map((type) =>
      commands.renameDataset(disk, 'tank/holdfast/vm-100/left-behind-g1.disk0', type),
    ),
    commands.cloneSnapshot('tank/holdfast/vm-100/left-behind-g1.disk0', 'hf-1-1', disk, [{ readonly: 'on' }]),
    commands.promoteClone(disk),
    commands.sendPoint(disk, 'hf-1-2', { kind: 'snapshot', name: 'hf-1-1' }),
    commands.sendRest('1-c740b4779-f0-789c636064'),
    commands.explainToken('1-c740b4779-f0-789c636064'),
    commands.receivePoint(disk, { isFirst: true, kind: 'volume' }),
    commands.receivePoint(disk, { isFirst: false, kind: 'file' }),
    commands.receiveAbort(disk),
    commands.listPools(),
    commands.readPoolStatus('tank'),
    commands.followEvents(),
    commands.createPool('tank', ['/dev/disk/by-id/a', '/dev/disk/by-id/b', '/dev/disk/by-id/c']),
    commands.importPool('tank', { takeOver: false }),
    commands.listImportable(),
    commands.replaceDisk('tank', '123456', '/dev/disk/by-id/d'),
    commands.startScrub('tank'),
    commands.stopScrub('tank'),
    commands.clearErrors('tank'),
  ];
}

test('nothing that can be run forces a receive, a pool or a removal', () => {
  for (const { program, args, what } of makeEach()) {
    const words = [program, ...args].join(' ');
    assert.doesNotMatch(words, / -F\b| -[a-z]*R| destroy -[a-z]*f/, words);
    assert.ok(args[0] === 'events' || !args.includes('-f'), words);
    assert.ok(what !== '' && args.every((argument) => argument !== ''));
  }
  assert.ok(commands.importPool('tank', { takeOver: true }).args.includes('-f'));
});

test('an argument that is not a proper name is never run', () => {
  const disk = 'tank/holdfast/vm-100/disk0';
  assert.throws(() => commands.destroySnapshots(disk, ['a@b']), /nothing was run/);
  assert.throws(() => commands.destroySnapshots(disk, ['a', 'b,c']), /nothing was run/);
  assert.throws(() => commands.destroySnapshots(disk, ['%']), /nothing was run/);
  assert.throws(() => commands.destroySnapshots('-rf', ['x']), /nothing was run/);
  assert.throws(() => commands.destroyDataset(disk), /neither a guest nor a disk of a tail/);
  assert.throws(() => commands.destroyDataset('tank/holdfast'), /neither a guest nor a disk/);
  assert.throws(() => commands.destroyDataset('tank'), /neither a guest nor a disk/);
  assert.throws(() => commands.sendRest('$(reboot)'), /nothing was run/);
  assert.throws(() => commands.createPool('tank', ['sda;reboot']), /nothing was run/);
  assert.throws(() => commands.setOwnProperties('tank/holdfast', { mountpoint: '/' }), /not a property of ours/);
  assert.throws(() => commands.setOwnProperties('tank/holdfast', { 'holdfast:x': 'a\nb' }), /unprintable/);
});

test('only a file system is told not to be mounted where it is set aside: ZFS refuses to hear that of a volume', () => {
  const [disk, aside] = ['tank/holdfast/vm-100/disk0', 'tank/holdfast/vm-100/left-behind-g1.disk0'];
  assert.deepEqual(commands.renameDataset(disk, aside, 'volume').args, ['rename', disk, aside]);
  assert.deepEqual(commands.renameDataset(disk, aside, 'filesystem').args, ['rename', '-u', disk, aside]);
});
