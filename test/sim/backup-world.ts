import assert from 'node:assert/strict';
import { isAppError } from '#base/error.ts';
import { checkBlob, decodeBlob, encodeBlob } from '#core/backup/blob.ts';
import { encodeText, formatHex, isSameBytes } from '#core/backup/bytes.ts';
import { judgeChunk } from '#core/backup/chunk-check.ts';
import { computeIndexCsum, digestAt, encodeDynamicRecord, parseIndex } from '#core/backup/chunk-index.ts';
import { joinBytes } from '#core/backup/bytes.ts';
import { formatManifest, makeManifest } from '#core/backup/manifest.ts';
import { formatSnapshot, manifestFile, snapshotPath, type SnapshotId } from '#core/backup/names.ts';
import { parseKeepRules } from '#core/backup/prune.ts';
import type { BackupSession, Datastore } from '#ports/datastore.ts';
import { nodeBytes } from '../../src/adapters/bytes/node-bytes.ts';
import { openDatastore } from '../../src/adapters/datastore/datastore.ts';
import { MemoryDisk } from '../fakes/memory-files.ts';

/** `lockedUntilMs` 0: not locked. */
type Acknowledged = { snapshot: SnapshotId; digests: Uint8Array[]; mayBeGone: boolean; lockedUntilMs: number };
const groups = ['100', '101', '102'];
/** Of the world's clock, which goes on by a second each time somebody looks. */
const lockMs = 2_000_000;
const contents = 14;

/** A datastore on a disk in memory, its users, and what they were promised. */
export class BackupWorld {
  readonly disk: MemoryDisk;
  readonly #chance: () => number;
  readonly #acknowledged = new Map<string, Acknowledged>();
  readonly #data = new Map<string, Uint8Array>();
  readonly counts = {
    finished: 0,
    aborted: 0,
    refused: 0,
    collected: 0,
    removedChunks: 0,
    pending: 0,
    pruned: 0,
    crashes: 0,
    reused: 0,
    caughtUp: 0,
    locked: 0,
    kept: 0,
    copied: 0,
  };
  #clockMs = 1_800_000_000_000;
  store!: Datastore & { cleared: string[] };

  constructor(chance: () => number) {
    this.#chance = chance;
    this.disk = new MemoryDisk(chance, () => this.#clockMs);
  }

  async open(): Promise<void> {
    const files = this.disk.open();
    await this.disk.run(files.makeFolder('.chunks'));
    await this.disk.run(files.syncFolder(''));
    const opening = openDatastore({
      files,
      functions: nodeBytes,
      checkChunk: async (path, digest) => {
        const encoded = await files.read(path);
        return encoded === null ? null : judgeChunk(encoded, digest, nodeBytes);
      },
      checkers: 2,
      nowMs: () => (this.#clockMs += 1_000),
      randomBytes: (count) => Uint8Array.from({ length: count }, () => Math.floor(this.#chance() * 256)),
      toLocal: (atSeconds) => ({ year: 2027, month: 1, day: Math.floor(atSeconds / 86_400), hour: 0 }),
      sync: 'filesystem',
      foldersInTurn: 0, // what a crash left has to be found by what is known of it alone
    });
    this.store = await this.disk.run(opening);
  }

  /** One user's deed, chosen by chance; expected refusals are part of life. */
  async act(): Promise<void> {
    const choice = this.#chance();
    try {
      if (choice < 0.42) await this.#backup();
      else if (choice < 0.5) await this.#copy();
      else if (choice < 0.72) await this.#collect();
      else if (choice < 0.86) await this.#prune();
      else if (choice < 0.93) await this.store.verifyChunks({ bytes: 200, olderThan: 2 ** 31 });
      else await this.#verify();
    } catch (error) {
      assert.ok(
        isAppError(error, 'busy', 'missing', 'conflict', 'unavailable'),
        `${String(error)} ${error instanceof Error ? error.stack : ''}`,
      );
      this.counts.refused += 1;
    }
  }

  async crash(kind: 'kill' | 'power'): Promise<void> {
    this.counts.crashes += 1;
    if (kind === 'kill') this.disk.kill();
    else this.disk.cutPower();
    await this.open();
    this.#checkNoDebris();
  }

  /** Every promise holds: what was acknowledged and not removed is there, whole. */
  checkPromises(): void {
    for (const [path, promise] of this.#acknowledged) {
      const manifest = this.disk.peekFile(`${path}/${manifestFile}`);
      if (manifest === null && promise.mayBeGone) {
        this.#acknowledged.delete(path);
        continue;
      }
      assert.ok(manifest, `${path} was acknowledged and is gone`);
      if (promise.mayBeGone) continue; // half removed by a crash would be found below; a removal in progress is not ours to judge
      if (promise.lockedUntilMs > 0) assert.ok(this.disk.peekFile(`${path}/.locked-until`), `${path}: its lock is gone`);
      const index = parseIndex('dynamic', this.disk.peekFile(`${path}/data.didx`) ?? new Uint8Array(), path);
      assert.equal(index.count, promise.digests.length);
      for (const [at, digest] of promise.digests.entries()) {
        assert.ok(isSameBytes(digestAt(index, at), digest), `${path}: chunk ${at} is another`);
        this.#checkChunk(path, digest);
      }
    }
  }

  /** After everybody went home one collection leaves exactly what is referred to, at once. */
  async checkNothingWasted(): Promise<void> {
    const result = await this.disk.run(this.store.collectGarbage({ note: this.#hear }));
    assert.equal(result.pendingChunks, 0);
    const referred = new Set<string>();
    for (const path of this.disk.paths()) {
      if (!path.endsWith('.didx')) continue;
      const index = parseIndex('dynamic', this.disk.peekFile(path) ?? new Uint8Array(), path);
      for (let at = 0; at < index.count; at += 1) referred.add(formatHex(digestAt(index, at)));
    }
    const stored = this.disk
      .paths()
      .filter((path) => path.startsWith('.chunks/'))
      .map((path) => path.slice(-64));
    assert.deepEqual(new Set(stored), referred);
  }

  #checkChunk(path: string, digest: Uint8Array): void {
    const hex = formatHex(digest);
    const encoded = this.disk.peekFile(`.chunks/${hex.slice(0, 4)}/${hex}`);
    assert.ok(encoded, `${path}: chunk ${hex} was removed`);
    const data = decodeBlob(encoded, { key: null, maxBytes: 1_000, what: hex }, nodeBytes);
    assert.ok(isSameBytes(data, this.#data.get(hex) ?? new Uint8Array()), `${path}: chunk ${hex} has other content`);
  }

  #checkNoDebris(): void {
    const debris = this.disk.paths().filter((path) => /^\.holdfast\/(tmp|trash|sessions)\//.test(path));
    assert.deepEqual(debris, []);
    for (const folder of this.disk.folderPaths()) {
      if (/\d\dZ$/.test(folder)) assert.ok(this.disk.peekFile(`${folder}/${manifestFile}`), `${folder} is left unfinished`);
    }
  }

  async #backup(): Promise<void> {
    const atSeconds = Math.floor((this.#clockMs += 1_000) / 1_000);
    const snapshot: SnapshotId = { namespace: [], type: 'vm', id: pick(groups, this.#chance), atSeconds };
    const session = await this.store.startBackup(snapshot, 'root@pam');
    try {
      const digests = await this.#upload(session);
      if (this.#chance() < 0.15) {
        await session.abort();
        this.counts.aborted += 1;
        return;
      }
      await session.finish();
      this.#promise(snapshot, digests);
    } catch (error) {
      await session.abort();
      throw error;
    }
    if (this.#chance() < 0.2) await this.#lock(snapshot);
    if (this.#chance() < 0.2) await this.store.verifySnapshot(snapshot, 'UPID:new'); // as a store does that verifies new ones
  }

  #promise(snapshot: SnapshotId, digests: Uint8Array[]): void {
    this.#acknowledged.set(snapshotPath(snapshot), { snapshot, digests, mayBeGone: false, lockedUntilMs: 0 });
    this.counts.finished += 1;
  }

  async #lock(snapshot: SnapshotId): Promise<void> {
    const untilMs = Math.floor((this.#clockMs + lockMs) / 1_000) * 1_000;
    await this.store.lockUntil(snapshot, untilMs / 1_000);
    const promise = this.#acknowledged.get(snapshotPath(snapshot));
    if (promise !== undefined) promise.lockedUntilMs = untilMs;
    this.counts.locked += 1;
  }

  /** A snapshot goes into another group chunk by chunk, as a sync brings it. */
  async #copy(): Promise<void> {
    const from = { namespace: [], type: 'vm', id: pick(groups, this.#chance) } as const;
    const { snapshots } = await this.store.readGroup(from);
    const finished = snapshots.filter(({ isFinished }) => isFinished);
    if (finished.length === 0) return;
    const reader = await this.store.openSnapshot(pick(finished, this.#chance).snapshot);
    try {
      const index = parseIndex('dynamic', await reader.read('data.didx'), 'source');
      const atSeconds = Math.floor((this.#clockMs += 1_000) / 1_000);
      const snapshot: SnapshotId = { namespace: [], type: 'vm', id: `copy-${from.id}`, atSeconds };
      const session = await this.store.startBackup(snapshot, 'root@pam');
      try {
        const digests = Array.from({ length: index.count }, (_, at) => Uint8Array.from(digestAt(index, at)));
        for (const digest of digests) {
          const encoded = await this.store.readChunk(digest);
          assert.ok(encoded !== null, 'a chunk of a snapshot that is read was removed');
          const data = decodeBlob(encoded, { key: null, maxBytes: 1_000, what: 'chunk' }, nodeBytes);
          await session.addChunk({ digest, sizeBytes: data.length, encoded, header: checkBlob(encoded, 'chunk', nodeBytes) });
        }
        await this.#writeIndex(session, digests);
        await session.finish();
        this.#promise(snapshot, digests);
        this.counts.copied += 1;
      } catch (error) {
        await session.abort();
        throw error;
      }
    } finally {
      reader.close();
    }
  }

  async #upload(session: BackupSession): Promise<Uint8Array[]> {
    const known: Uint8Array[] = [];
    if (session.base !== null && this.#chance() < 0.7) {
      const index = parseIndex('dynamic', await session.readBase('data.didx'), 'base');
      for (let at = 0; at < index.count; at += 1) known.push(Uint8Array.from(digestAt(index, at)));
      this.counts.reused += 1;
    }
    const uploads = 1 + Math.floor(this.#chance() * 5);
    await Promise.all(
      Array.from({ length: uploads }, async () => {
        const data = encodeText(`content ${Math.floor(this.#chance() * contents)}`);
        const digest = nodeBytes.sha256(data);
        this.#data.set(formatHex(digest), data);
        const encoded = encodeBlob(data, { compress: false, crypt: null }, nodeBytes);
        await session.addChunk({ digest, sizeBytes: data.length, encoded, header: checkBlob(encoded, 'chunk', nodeBytes) });
        known.push(digest);
      }),
    );
    const digests = Array.from({ length: 1 + Math.floor(this.#chance() * 6) }, () => pick(known, this.#chance));
    await this.#writeIndex(session, digests);
    return digests;
  }

  async #writeIndex(session: BackupSession, digests: Uint8Array[]): Promise<void> {
    const writer = await session.startIndex('data.didx', 'dynamic', { sizeBytes: 0, reuseCsum: null });
    let end = 0;
    const records: Uint8Array[] = [];
    for (const digest of digests) {
      const sizeBytes = session.knownSize(digest);
      assert.ok(sizeBytes !== null, `${formatSnapshot(session.snapshot)}: a chunk that is known was forgotten`);
      writer.append({ digest, sizeBytes }, end);
      end += sizeBytes;
      records.push(encodeDynamicRecord(end, digest));
    }
    const csum = computeIndexCsum(joinBytes(records), nodeBytes);
    await session.addIndex('data.didx', writer.close({ chunkCount: digests.length, sizeBytes: end, csum }, nodeBytes));
    const { type, id, atSeconds } = session.snapshot;
    const files = [{ name: 'data.didx', cryptMode: 'none', sizeBytes: end, csum }] as const;
    const manifest = makeManifest({ type, id, atSeconds, files, unprotected: {} }, null, nodeBytes);
    await session.addBlob(manifestFile, encodeBlob(formatManifest(manifest), { compress: true, crypt: null }, nodeBytes));
  }

  async #collect(): Promise<void> {
    const result = await this.store.collectGarbage({ scan: this.#chance() < 0.05, note: this.#hear });
    assert.deepEqual(result.warnings, []);
    this.counts.collected += 1;
    this.counts.removedChunks += result.removedChunks;
    this.counts.pending += result.pendingChunks;
  }

  async #prune(): Promise<void> {
    const group = { namespace: [], type: 'vm', id: pick([...groups, 'copy-100'], this.#chance) } as const;
    const rules = parseKeepRules({ last: 1 + Math.floor(this.#chance() * 3) });
    // The plan first and then each removal by itself: from its beginning on a snapshot may be gone or not.
    for (const { snapshot, mark } of await this.store.prune(group, rules, { dryRun: true })) {
      if ((this.#acknowledged.get(snapshotPath(snapshot))?.lockedUntilMs ?? 0) > this.#clockMs + 100_000) {
        await assert.rejects(this.store.removeSnapshot(snapshot), (error) => isAppError(error, 'denied', 'busy', 'missing'));
        this.counts.kept += 1;
        continue;
      }
      if (mark !== 'remove') continue;
      this.#expectGone(snapshot);
      await this.store.removeSnapshot(snapshot);
      this.counts.pruned += 1;
    }
  }

  async #verify(): Promise<void> {
    const { snapshots } = await this.store.readGroup({ namespace: [], type: 'vm', id: pick(groups, this.#chance) });
    const finished = snapshots.filter(({ isFinished }) => isFinished);
    if (finished.length === 0) return;
    const { problems } = await this.store.verifySnapshot(pick(finished, this.#chance).snapshot, 'UPID:test');
    assert.deepEqual(problems, []);
  }

  readonly #hear = (text: string): void => {
    const [, listed, folders] = /^after a crash: (\d+) of (\d+) folders/.exec(text) ?? [];
    if (listed !== undefined && Number(listed) < Number(folders)) this.counts.caughtUp += 1;
  };

  #expectGone(snapshot: SnapshotId): void {
    const promise = this.#acknowledged.get(snapshotPath(snapshot));
    if (promise !== undefined) promise.mayBeGone = true;
  }
}

function pick<Item>(items: readonly Item[], chance: () => number): Item {
  const item = items[Math.floor(chance() * items.length)];
  assert.ok(item !== undefined);
  return item;
}
