import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { createChance } from '#core/ha/seeded-chance.ts';
import { joinBytes } from './bytes.ts';
import { ChunkCatalogue } from './chunk-catalogue.ts';
import { planInsert, type InsertPlan } from './chunk-check.ts';
import type { BlobKind } from './blob.ts';
import { planVerify } from './verify-plan.ts';

const digestOf = (number: number): Uint8Array => Uint8Array.from(createHash('sha256').update(String(number)).digest());
const facts = (verifiedAt: number, sizeBytes = 100) => ({ sizeBytes, verifiedAt, cryptClass: 'plain' }) as const;

test('a catalogue reads back from its log, also when the last record is torn', () => {
  const chance = createChance(5);
  const live = new ChunkCatalogue(1);
  let log = live.encode();
  for (let step = 0; step < 3_000; step += 1) {
    const digest = digestOf(Math.floor(chance() * 400));
    const choice = chance();
    if (choice < 0.5) live.put(digest, facts(Math.floor(chance() * 1_000), Math.floor(chance() * 5_000)));
    else if (choice < 0.8) live.remove(digest);
    else live.setBad(digest, chance() < 0.5);
    if (chance() < 0.01) log = joinBytes([log, ...live.takeJournal()]);
    if (chance() < 0.002) log = live.encode();
  }
  log = joinBytes([log, ...live.takeJournal()]);
  for (const torn of [0, 1, 43]) {
    const read = new ChunkCatalogue(2);
    assert.equal(read.replay(joinBytes([log, new Uint8Array(torn)]), Infinity).tornBytes, torn === 0 ? 0 : 44 - torn);
    assert.equal(read.count, live.count);
    assert.equal(read.bytes, live.bytes);
    for (let number = 0; number < 400; number += 1) {
      assert.deepEqual(read.look(digestOf(number)), live.look(digestOf(number)));
      assert.equal(read.isLost(digestOf(number)), live.isLost(digestOf(number)));
    }
  }
  assert.throws(() => new ChunkCatalogue(1).replay(new Uint8Array(100), Infinity), /does not begin as one/);
});

test('after a crash a chunk noted since the last sync is known but not believed, and its folder is told', () => {
  const live = new ChunkCatalogue(1);
  const start = live.encode();
  live.put(digestOf(1), facts(10));
  const synced = joinBytes([start, ...live.takeJournal()]);
  live.put(digestOf(2), facts(11));
  const log = joinBytes([synced, ...live.takeJournal()]);
  const folder = (digestOf(2)[0] ?? 0) * 256 + (digestOf(2)[1] ?? 0);
  for (const wasClosed of [true, false]) {
    const read = new ChunkCatalogue(1);
    const { doubtful } = read.replay(log, wasClosed ? Infinity : synced.length);
    assert.deepEqual([...doubtful], wasClosed ? [] : [folder]);
    assert.equal(read.look(digestOf(1))?.verifiedAt, 10);
    assert.equal(read.look(digestOf(2))?.verifiedAt, wasClosed ? 11 : 0);
  }
});

test('the rolling verification takes those longest not looked at, within its budget', () => {
  const catalogue = new ChunkCatalogue(1);
  for (const [number, verifiedAt] of [50, 0, 30, 70].entries()) catalogue.put(digestOf(number), facts(verifiedAt));
  const take = (bytes: number, olderThan: number): Uint8Array[] => planVerify(catalogue, { bytes, olderThan });
  assert.deepEqual(take(250, 100), [digestOf(1), digestOf(2)]);
  assert.deepEqual(take(1_000, 60), [digestOf(1), digestOf(2), digestOf(0)]);
  assert.deepEqual(take(1, 60), [digestOf(1)]);
  assert.deepEqual(take(1_000, 0), []);
});

test('what happens to a chunk that comes for a digest under which something lies', () => {
  const header = (kind: BlobKind) => ({ kind, cryptClass: kind.includes('encrypted') ? 'encrypted' : 'plain' }) as const;
  const cases: [stored: [BlobKind | null, number, boolean] | null, kind: BlobKind, bytes: number, InsertPlan][] = [
    [null, 'plain', 50, 'write'],
    [['plain', 0, true], 'plain', 50, 'write'],
    [[null, 50, false], 'plain', 50, 'set-aside'],
    [['plain', 50, true], 'plain', 50, 'duplicate'],
    [['plain', 50, true], 'zstd', 40, 'replace'],
    [['zstd', 40, true], 'plain', 50, 'duplicate'],
    [['plain', 50, false], 'plain', 50, 'check'],
    [['encrypted', 50, true], 'plain', 50, 'set-aside'],
    [['encrypted', 50, false], 'zstd', 50, 'set-aside'],
    [['plain', 50, true], 'encrypted', 50, 'refuse'],
    [['plain', 50, false], 'encrypted', 50, 'check'],
    [['encrypted', 50, true], 'encrypted', 50, 'duplicate'],
    [['encrypted', 50, true], 'encrypted', 51, 'refuse'],
    [['encrypted', 50, true], 'zstd-encrypted', 40, 'duplicate'],
    [['zstd-encrypted', 50, false], 'encrypted', 60, 'check'],
  ];
  for (const [stored, kind, bytes, plan] of cases) {
    const found = stored === null ? null : { kind: stored[0], sizeBytes: stored[1], isTrusted: stored[2] };
    assert.equal(planInsert(found, header(kind), bytes), plan, `${JSON.stringify(stored)} and ${kind} of ${bytes}`);
  }
});
