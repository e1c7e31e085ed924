import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import { createChance } from '#core/ha/seeded-chance.ts';
import { encodeText, formatHex, joinBytes } from './bytes.ts';
import { createCatalogWriter, joinCatalogs, readCatalogRoot, readCatalogTable } from './catalog.ts';
import { decodeVarint, encodeVarint } from './varint.ts';

function sample(): Uint8Array {
  const writer = createCatalogWriter();
  const out = [writer.header];
  writer.begin(encodeText('root.pxar.didx'));
  writer.add({ kind: 'file', name: encodeText('old'), sizeBytes: 5_000_000_000, mtimeSeconds: -1 });
  writer.begin(encodeText('sub'));
  writer.add({ kind: 'symlink', name: encodeText('link') });
  out.push(writer.end());
  writer.add({ kind: 'file', name: encodeText('new'), sizeBytes: 0, mtimeSeconds: 1_700_000_000 });
  out.push(writer.end(), writer.finish());
  return joinBytes(out);
}

test('numbers of the catalog', () => {
  const expected: [number, string][] = [
    [0, '00'],
    [127, '7f'],
    [128, '8001'],
    [300, 'ac02'],
    [-1, '8100'],
    [-300, 'ac8200'],
  ];
  for (const [value, hex] of expected) {
    assert.equal(formatHex(encodeVarint(value)), hex, `${value}`);
    assert.deepEqual(decodeVarint(encodeVarint(value), 0, 'x'), { value, next: hex.length / 2 });
  }
  const chance = createChance(7);
  for (let round = 0; round < 2_000; round += 1) {
    const value = Math.round((chance() - 0.5) * 2 ** (chance() * 53));
    assert.equal(decodeVarint(encodeVarint(value), 0, 'x').value, value === 0 ? 0 : value);
  }
  assert.throws(() => decodeVarint(new Uint8Array(20).fill(255), 0, 'x'), /out of range/);
  assert.throws(() => decodeVarint(Uint8Array.of(255), 0, 'x'), /cut off/);
});

test('a catalog reads as it was written', () => {
  const file = sample();
  const [archive] = readCatalogTable(file, readCatalogRoot(file));
  assert.ok(archive?.kind === 'directory');
  const entries = readCatalogTable(file, archive.tableAt);
  assert.deepEqual(
    entries.map((entry) => [entry.kind, new TextDecoder().decode(entry.name)]),
    [
      ['file', 'old'],
      ['directory', 'sub'],
      ['file', 'new'],
    ],
  );
  assert.deepEqual(entries[0], { kind: 'file', name: encodeText('old'), sizeBytes: 5_000_000_000, mtimeSeconds: -1 });
  const [, sub] = entries;
  assert.ok(sub?.kind === 'directory');
  assert.deepEqual(readCatalogTable(file, sub.tableAt), [{ kind: 'symlink', name: encodeText('link') }]);
});

test('cut and flipped catalogs are refused or read to their end', () => {
  const file = sample();
  const chance = createChance(11);
  const walk = (bytes: Uint8Array, at: number): void => {
    for (const entry of readCatalogTable(bytes, at)) if (entry.kind === 'directory') walk(bytes, entry.tableAt);
  };
  let refused = 0;
  for (let round = 0; round < 3_000; round += 1) {
    const spoiled = Uint8Array.from(round % 3 === 0 ? file.subarray(0, Math.floor(chance() * file.length)) : file);
    if (round % 3 !== 0) spoiled[Math.floor(chance() * spoiled.length)]! ^= 1 << Math.floor(chance() * 8);
    try {
      walk(spoiled, readCatalogRoot(spoiled));
    } catch (error) {
      assert.ok(isAppError(error, 'invalid'), String(error));
      refused += 1;
    }
  }
  assert.ok(refused > 1_000, `${refused}`);
});

test('catalogs of several archives make one', () => {
  const parts = ['a.pxar.didx', 'b.pxar.didx'].map((text) => {
    const writer = createCatalogWriter();
    const name = encodeText(text);
    writer.begin(name);
    writer.begin(encodeText('sub'));
    writer.add({ kind: 'file', name: encodeText(`file of ${text}`), sizeBytes: 1, mtimeSeconds: 2 });
    const tables = [writer.end(), writer.end()];
    return { name, tables: joinBytes(tables), lastBytes: tables.at(-1)?.length ?? 0 };
  });
  const file = joinCatalogs(parts);
  const seen = readCatalogTable(file, readCatalogRoot(file)).map((archive) => {
    assert.ok(archive.kind === 'directory');
    const [sub] = readCatalogTable(file, archive.tableAt);
    assert.ok(sub?.kind === 'directory');
    return readCatalogTable(file, sub.tableAt).map(({ name }) => new TextDecoder().decode(name));
  });
  assert.deepEqual(seen, [['file of a.pxar.didx'], ['file of b.pxar.didx']]);
});
