import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { connectNbd } from '#adapters/nbd/nbd-client.ts';
import { isAppError } from '#base/error.ts';
import type { ReplicaPoint } from '#core/guest/guest-record.ts';
import type { ReplicationJob } from '#core/replica/records.ts';
import type { GuestStorage, NewContent } from '#ports/guest-storage.ts';

export const vmid = 100;
const mib = 1 << 20;
export const disks = [
  { name: 'disk0', sizeBytes: 8 * mib },
  { name: 'disk1', sizeBytes: 4 * mib },
];
export const piece = (value: number) => new Uint8Array(65_536).fill(value);

/** What every driver of guests' disks can do beyond the port, as replication uses it. */
export type SuiteStorage = GuestStorage & {
  thin(vmid: number, keep: ReplicationJob['keep']): Promise<void>;
  reserveSeq(vmid: number, generation: number, count: number): Promise<number>;
};

/** A driver with a way to write to it and to look at what it holds. */
export type StorageBench = {
  /** A folder of the test's own. */
  path: string;
  storage: SuiteStorage;
  logged: string[];
  /** Writes 64 KiB of `value` at `offset` of disk0 of the primary copy, as its guest would, durably. */
  write(value: number, offset: number): Promise<void>;
  /** A byte of disk0 of what is held: the primary's disk, or the newest whole point. */
  readByte(offset: number): Promise<number>;
  /** Another node sends a whole point that has `value` at `offset` of every disk. */
  receive(point: ReplicaPoint, value: number, offset: number): Promise<void>;
  /** As far as the last byte; the point is not committed. */
  begin(point: ReplicaPoint, value: number, offset: number): Promise<{ seal(): Promise<void> }>;
  /** A snapshot under the point's name, for drivers whose points are such. */
  takePoint(point: ReplicaPoint): Promise<void>;
  /** The same storage in a new process: nothing that was on its way is known any more. */
  restart(): Promise<SuiteStorage>;
  [Symbol.asyncDispose](): Promise<void>;
};

const lastPoint = {
  point: { generation: 1, seq: 7 },
  copiedTo: ['n2'],
  source: 'n1',
  pointAtMs: 7_000,
  configSha256: 'c0',
  lastCycle: { kind: 'delta' as const, bytes: 0, tookMs: 0, pausedMs: 0 },
};
/** New content for the disks of a primary copy: 64 KiB of sevens at the begin of each. */
export const newContent = (change: Partial<NewContent> = {}): NewContent => ({
  tail: 'replaced-1',
  fromAtMs: 5_000,
  disks,
  async write(_disk, { socketPath, exportName }) {
    const nbd = await connectNbd(socketPath, exportName, { deadlineMs: 20_000 });
    assert.ok([1, 0].includes((await nbd.read(0, 1))[0] ?? -1), 'the place shows what lies there');
    await nbd.write(0, piece(7));
    nbd.close();
    return 65_536;
  },
  confirm: () => Promise.resolve(),
  ...change,
});
const keepOne = { recent: 1, minutes: 0, hours: 0 };

/** The rules that hold for every driver. */
export function defineStorageSuite(driver: string, makeBench: (name: string) => Promise<StorageBench>): void {
  const rule = (name: string, body: (bench: StorageBench) => Promise<void>): void => {
    test(`${driver}: ${name}`, async () => {
      await using bench = await makeBench(name.slice(0, 12).replaceAll(/[^a-z]/g, ''));
      await body(bench);
    });
  };
  const isKind =
    (...kinds: Parameters<typeof isAppError>[1][]) =>
    (error: unknown) => {
      assert.ok(
        kinds.some((kind) => isAppError(error, kind)),
        String(error),
      );
      return true;
    };

  rule('a new guest is a primary copy that opens only under its own generation', async (bench) => {
    const { storage, path } = bench;
    const image = join(path, 'image.raw');
    writeFileSync(image, piece(7));
    await storage.create(vmid, 3, [{ ...disks[0]!, importFile: image }, disks[1]!]);
    assert.deepEqual(await storage.listCopies(), [
      { vmid, role: 'primary', generation: 3, point: null, pointAtMs: null, leftBehind: [], handedOver: null },
    ]);
    const chains = await storage.openPrimary(vmid, 3);
    assert.deepEqual(
      chains.map((chain) => chain.nodeName),
      ['act-disk0', 'act-disk1'],
    );
    assert.equal(await bench.readByte(0), 7);
    await assert.rejects(storage.openPrimary(vmid, 2), isKind('conflict'));
    await assert.rejects(storage.create(vmid, 3, []), isKind('conflict'));
    await assert.rejects(storage.create(101, 1, [{ ...disks[1]!, importFile: join(path, 'none') }]), isKind('missing'));
    assert.equal((await storage.listCopies()).length, 1);
    const first = await storage.reserveSeq(vmid, 3, 10);
    assert.equal(await storage.reserveSeq(vmid, 3, 10), first + 10);
    await storage.remove(vmid);
    assert.deepEqual(await storage.listCopies(), []);
  });

  rule('the newest point is promoted and itself stays untouched; what is written since is a tail', async (bench) => {
    const { storage } = bench;
    await bench.receive({ generation: 1, seq: 1 }, 1, 0);
    await bench.receive({ generation: 1, seq: 2 }, 2, 65_536);
    assert.deepEqual([await bench.readByte(0), await bench.readByte(65_536)], [1, 2]);
    await assert.rejects(storage.promote(vmid, 2, { generation: 1, seq: 3 }), isKind('conflict'));
    await assert.rejects(storage.promote(vmid, 1, { generation: 1, seq: 1 }), isKind('conflict'));
    const promoted = await storage.promote(vmid, 2, { generation: 1, seq: 1 });
    assert.deepEqual(promoted, { point: { generation: 1, seq: 2 }, pointAtMs: 2000 });
    assert.deepEqual(await storage.promote(vmid, 2, { generation: 1, seq: 1 }), promoted);
    await bench.write(9, 0);
    assert.equal(await bench.readByte(0), 9);
    await storage.demote(vmid);
    await storage.demote(vmid);
    const [copy] = await storage.listCopies();
    assert.deepEqual([copy?.role, copy?.point, copy?.leftBehind[0]?.name], ['replica', null, 'left-behind-g2']);
    const exported = await storage.exportLeftBehind(vmid, 'left-behind-g2', join(bench.path, 'out'));
    assert.deepEqual([...readFileSync(exported[0] ?? '').subarray(65_535, 65_537)], [9, 2]);
  });

  rule('a tail outlives the points above it until it is released', async (bench) => {
    const { storage } = bench;
    await storage.create(vmid, 1, disks);
    await storage.openPrimary(vmid, 1);
    await bench.write(9, 0);
    await storage.demote(vmid);
    await assert.rejects(storage.promote(vmid, 2, { generation: 1, seq: 1 }), isKind('missing'));
    for (const seq of [1, 2, 3]) await bench.receive({ generation: 2, seq }, seq, 0);
    await storage.thin(vmid, keepOne);
    const [tail] = await storage.exportLeftBehind(vmid, 'left-behind-g1', join(bench.path, 'out'));
    assert.equal(readFileSync(tail ?? '')[0], 9);
    assert.equal(await bench.readByte(0), 3);
    await storage.releaseLeftBehind(vmid, 'left-behind-g1');
    await storage.thin(vmid, keepOne);
    assert.equal(await bench.readByte(0), 3);
    assert.deepEqual((await storage.listCopies())[0]?.leftBehind, []);
    await assert.rejects(storage.releaseLeftBehind(vmid, 'left-behind-g1'), isKind('missing'));
    await storage.remove(vmid);
  });

  rule('what was on its way in when we stopped is no point after the next start', async (bench) => {
    await bench.receive({ generation: 1, seq: 1 }, 1, 0);
    await bench.begin({ generation: 1, seq: 2 }, 2, 0);
    const restarted = await bench.restart();
    assert.deepEqual((await restarted.listCopies())[0]?.point, { generation: 1, seq: 1 });
    assert.equal(await bench.readByte(0), 1);
    await restarted.promote(vmid, 2, { generation: 1, seq: 1 });
    await restarted.openPrimary(vmid, 2);
    assert.equal(await bench.readByte(0), 1);
  });

  rule('a sender of an older generation changes nothing; promotion closes what is on its way', async (bench) => {
    const { storage } = bench;
    await bench.receive({ generation: 2, seq: 5 }, 1, 0);
    const before = await storage.listCopies();
    await assert.rejects(bench.begin({ generation: 1, seq: 99 }, 3, 0), isKind('conflict'));
    await assert.rejects(bench.begin({ generation: 2, seq: 5 }, 3, 0), isKind('conflict'));
    assert.deepEqual(await storage.listCopies(), before);
    const incoming = await bench.begin({ generation: 2, seq: 6 }, 4, 0);
    await storage.promote(vmid, 3, { generation: 2, seq: 5 });
    await assert.rejects(incoming.seal(), isKind('conflict'));
    await assert.rejects(bench.begin({ generation: 4, seq: 1 }, 5, 0), isKind('conflict'));
    await storage.openPrimary(vmid, 3);
    assert.equal(await bench.readByte(0), 1);
  });

  const handedOver = async (bench: StorageBench): Promise<void> => {
    await bench.storage.create(vmid, 1, disks);
    await bench.storage.openPrimary(vmid, 1);
    await bench.write(9, 0);
    await bench.takePoint(lastPoint.point);
    await bench.storage.noteHandedOver(vmid, 1, lastPoint);
  };

  rule('a primary that handed everything over becomes a replica at that point, which can be added to', async (bench) => {
    const { storage } = bench;
    await handedOver(bench);
    assert.deepEqual((await storage.listCopies())[0]?.handedOver?.point, lastPoint.point);
    await storage.demote(vmid, lastPoint.point);
    const [copy] = await storage.listCopies();
    assert.deepEqual([copy?.role, copy?.point, copy?.leftBehind], ['replica', lastPoint.point, []]);
    await bench.receive({ generation: 2, seq: 1 }, 2, 65_536);
    assert.deepEqual([await bench.readByte(0), await bench.readByte(65_536)], [9, 2]);
    await storage.thin(vmid, keepOne);
    assert.deepEqual([await bench.readByte(0), await bench.readByte(65_536)], [9, 2]);
    assert.deepEqual((await storage.promote(vmid, 3, { generation: 2, seq: 1 })).point, { generation: 2, seq: 1 });
  });

  rule('a home that gets the guest back from the point that it handed over goes on from there', async (bench) => {
    const { storage } = bench;
    await handedOver(bench);
    assert.deepEqual((await storage.promote(vmid, 3, lastPoint.point)).point, lastPoint.point);
    const [copy] = await storage.listCopies();
    assert.deepEqual([copy?.role, copy?.generation, copy?.handedOver, copy?.leftBehind], ['primary', 3, null, []]);
    assert.equal((await storage.openPrimary(vmid, 3)).length, disks.length);
  });

  rule('what was handed over counts no more once the disks were opened again', async (bench) => {
    const { storage } = bench;
    await handedOver(bench);
    await storage.openPrimary(vmid, 1);
    assert.equal((await storage.listCopies())[0]?.handedOver, null);
    await storage.demote(vmid, lastPoint.point);
    const [copy] = await storage.listCopies();
    assert.deepEqual([copy?.point, copy?.leftBehind[0]?.name], [null, 'left-behind-g1']);
  });

  rule('a home that handed over to one that began from something else keeps its writes as well', async (bench) => {
    const { storage } = bench;
    await handedOver(bench);
    await storage.demote(vmid, { generation: 1, seq: 6 });
    const [copy] = await storage.listCopies();
    assert.deepEqual([copy?.point, copy?.leftBehind[0]?.name], [lastPoint.point, 'left-behind-g1']);
    await bench.receive({ generation: 2, seq: 1 }, 2, 65_536);
    await storage.thin(vmid, keepOne);
    assert.deepEqual([await bench.readByte(0), await bench.readByte(65_536)], [9, 2]);
  });

  rule('a home that takes the guest back at its own last point goes on from there, and the tail with it', async (bench) => {
    const { storage } = bench;
    await handedOver(bench);
    await storage.demote(vmid);
    assert.deepEqual((await storage.promote(vmid, 3, lastPoint.point)).point, lastPoint.point);
    const [copy] = await storage.listCopies();
    assert.deepEqual([copy?.role, copy?.leftBehind], ['primary', []]);
    await storage.openPrimary(vmid, 3);
    assert.equal(await bench.readByte(0), 9);
  });

  rule('new content takes the place of the disks, and the old content is a tail that outlives the next roles', async (bench) => {
    const { storage, path } = bench;
    await bench.receive({ generation: 1, seq: 1 }, 1, 0);
    await storage.promote(vmid, 2, { generation: 1, seq: 1 });
    await bench.write(1, 65_536);
    assert.deepEqual(await storage.replace(vmid, 2, newContent()), { changedBytes: 131_072 });
    await storage.openPrimary(vmid, 2);
    assert.equal(await bench.readByte(0), 7);
    assert.equal(await bench.readByte(65_536), 1, 'what was not written shows through');
    const [kept] = (await storage.listCopies())[0]?.leftBehind ?? [];
    assert.deepEqual([kept?.name, kept?.sizeBytes, kept?.fromAtMs], ['replaced-1', 131_072, 5_000]);
    await bench.write(9, 0);
    await storage.demote(vmid);
    await bench.receive({ generation: 3, seq: 1 }, 4, 0);
    const [old] = await storage.exportLeftBehind(vmid, 'replaced-1', join(path, 'old'));
    assert.equal(readFileSync(old ?? '')[0], 1);
    const [own] = await storage.exportLeftBehind(vmid, 'left-behind-g2', join(path, 'own'));
    assert.equal(readFileSync(own ?? '')[0], 9);
    await assert.rejects(storage.replace(vmid, 2, newContent()), isKind('conflict'));
    for (const name of ['replaced-1', 'left-behind-g2']) await storage.releaseLeftBehind(vmid, name);
    assert.deepEqual((await storage.listCopies())[0]?.leftBehind, []);
    assert.equal(await bench.readByte(0), 4);
  });

  rule('whatever fails before new content counts, the disks are the old ones', async (bench) => {
    const { storage } = bench;
    await storage.create(vmid, 1, disks);
    await bench.write(1, 0);
    const mustStay = async (why: string): Promise<void> => {
      await storage.openPrimary(vmid, 1);
      assert.equal(await bench.readByte(0), 1, why);
      assert.deepEqual((await storage.listCopies())[0]?.leftBehind, [], why);
    };
    const torn = { write: () => Promise.reject(new Error('torn')) };
    await assert.rejects(storage.replace(vmid, 1, newContent(torn)), /torn/);
    await mustStay('a disk could not be written');
    await assert.rejects(
      storage.replace(vmid, 1, newContent({ confirm: () => Promise.reject(new Error('not home')) })),
      /not home/,
    );
    await mustStay('it must not count');
    const fewer = newContent({ disks: disks.slice(0, 1) });
    await assert.rejects(storage.replace(vmid, 1, fewer), /it has disk1, and the new content has not/);
    await mustStay('a disk would be lost');
    await assert.rejects(storage.replace(vmid, 2, newContent()), isKind('conflict'));
    await mustStay('another generation');
    const same = await storage.replace(vmid, 1, newContent({ write: () => Promise.resolve(0) }));
    assert.equal(same.changedBytes, 0);
    await mustStay('nothing was different');
    assert.equal((await storage.replace(vmid, 1, newContent())).changedBytes, 131_072, 'and then it goes well');
  });

  rule('a replacement that a crash cut is gone at the next start', async (bench) => {
    await bench.storage.create(vmid, 1, disks);
    await bench.write(1, 0);
    const reached = Promise.withResolvers<void>();
    const write = (): Promise<number> => {
      reached.resolve();
      return new Promise<number>(() => {});
    };
    void bench.storage.replace(vmid, 1, newContent({ write })).catch(() => {});
    await reached.promise;
    const storage = await bench.restart();
    await storage.openPrimary(vmid, 1);
    assert.equal(await bench.readByte(0), 1);
    assert.deepEqual((await storage.listCopies())[0]?.leftBehind, []);
  });

  rule('with new content a disk may have another size, and there may be one more', async (bench) => {
    const { storage, path } = bench;
    await storage.create(vmid, 1, disks);
    await bench.write(1, 0);
    const more = [{ name: 'disk0', sizeBytes: 16 * mib }, disks[1]!, { name: 'disk2', sizeBytes: mib }];
    await storage.replace(vmid, 1, newContent({ disks: more }));
    const served = await storage.serve(vmid, 1);
    await served.close();
    assert.deepEqual(served.disks, more);
    assert.equal((await storage.openPrimary(vmid, 1)).length, 3);
    assert.equal(await bench.readByte(0), 7);
    const files = await storage.exportLeftBehind(vmid, 'replaced-1', join(path, 'old'));
    assert.deepEqual(
      files.map((file) => readFileSync(file).length),
      [8 * mib, 4 * mib],
    );
  });
}
