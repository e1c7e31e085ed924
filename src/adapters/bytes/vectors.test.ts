import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import { decodeBlob, encodeBlob } from '#core/backup/blob.ts';
import { decodeText, encodeText, formatHex, joinBytes, parseHex, viewOf } from '#core/backup/bytes.ts';
import { computeIndexCsum, digestAt, encodeDynamicRecord, encodeIndexHeader, parseIndex } from '#core/backup/chunk-index.ts';
import { createChunker } from '#core/backup/chunker.ts';
import { chunkDigest, deriveCryptKey, formatFingerprint, formatShortFingerprint } from '#core/backup/crypt-key.ts';
import { formatKeyFile, makeKeyFile, openKeyFile, parseKeyFile, stretch } from '#core/backup/key-file.ts';
import { checkSignature, computeSignature, formatManifest, makeManifest, parseManifest } from '#core/backup/manifest.ts';
import { nodeBytes } from './node-bytes.ts';

const mebibyte = 1024 * 1024;
const vectorKey = deriveCryptKey(
  Uint8Array.from({ length: 32 }, (_, index) => index),
  nodeBytes,
);
const counting = (bytes: number): Uint8Array => Uint8Array.from({ length: bytes }, (_, index) => index);

test('chunk digests of zeros', () => {
  const expected: [number, string][] = [
    [4 * mebibyte, 'bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8'],
    [2 * mebibyte, '5647f05ec18958947d32874eeb788fa396a05d0bab7c1b71f112ceb7e9b31eee'],
    [mebibyte, '30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58'],
    [65_536, 'de2f256064a0af797747c2b97505dc0b9f3df0de4f489eac731c23ae9ca9cc31'],
  ];
  for (const [bytes, digest] of expected) assert.equal(formatHex(chunkDigest(new Uint8Array(bytes), null, nodeBytes)), digest);
});

test('checksum of the index of 10 MiB of zeros', () => {
  const digests = [4, 4, 2].map((size) => chunkDigest(new Uint8Array(size * mebibyte), null, nodeBytes));
  const records = joinBytes(digests);
  const csum = computeIndexCsum(records, nodeBytes);
  assert.equal(formatHex(csum), 'cfbbdae2c77066b55ee0bca512cfca2299904017a44f1dc362f4cc4e3924925d');
  const head = {
    kind: 'fixed',
    uuid: counting(16),
    ctimeSeconds: 7,
    csum,
    sizeBytes: 10 * mebibyte,
    chunkBytes: 4 * mebibyte,
  } as const;
  const index = parseIndex('fixed', joinBytes([encodeIndexHeader(head), records]), 'test.fidx');
  assert.deepEqual([index.count, index.sizeBytes, index.ctimeSeconds], [3, 10 * mebibyte, 7]);
  assert.equal(formatHex(digestAt(index, 2)), formatHex(digests[2] ?? new Uint8Array()));
});

test('plain blobs', () => {
  const two = encodeBlob(Uint8Array.of(0, 1), { compress: true, crypt: null }, nodeBytes);
  assert.equal(formatHex(two), '42ab3807be8370a16922de360001');
  const digest = 'b413f47d13ee2fe6c845b2ee141af81de858df4ec549a58b7970bb96645bc8d2';
  assert.equal(formatHex(chunkDigest(Uint8Array.of(0, 1), null, nodeBytes)), digest);
  const hello = encodeBlob(encodeText('hello\n'), { compress: false, crypt: null }, nodeBytes);
  assert.equal(formatHex(hello), '42ab3807be8370a120303a3668656c6c6f0a');
});

test('a key, its fingerprint, its digests', () => {
  assert.equal(formatHex(vectorKey.idKey), '7c2c013efd07f3b25717a485263343cd4d292a4b65c200bb3b18ea227abe225c');
  assert.equal(formatHex(vectorKey.fingerprint), '0eabd4460b6eb9ca345023dee2b778c790e54a1683b9659c0a57ae199090159b');
  assert.equal(formatShortFingerprint(vectorKey.fingerprint), '0e:ab:d4:46:0b:6e:b9:ca');
  assert.equal(formatFingerprint(vectorKey.fingerprint).length, 95);
  const digest = '348571e12bbbedb529def1f1394316e338a01945d871df9ef792617ceb13d636';
  assert.equal(formatHex(chunkDigest(new Uint8Array(4 * mebibyte), vectorKey, nodeBytes)), digest);
});

test('an encrypted blob with a 16-byte IV', () => {
  const data = encodeText('hello\n');
  const blob = encodeBlob(data, { compress: false, crypt: { key: vectorKey, iv: counting(16) } }, nodeBytes);
  const hex = '7b6785be222d4cf0b233fdcb000102030405060708090a0b0c0d0e0f82ac24dec2655806e4c80e1abb56504c0f09cc1a56ee';
  assert.equal(formatHex(blob), hex);
  const digest = '20bbd199c52e00417a79467b7d5af398d1f57bc44a8818d78d94c5cdebeec614';
  assert.equal(formatHex(chunkDigest(data, vectorKey, nodeBytes)), digest);
  assert.equal(decodeText(decodeBlob(blob, { key: vectorKey, maxBytes: 100, what: 'blob' }, nodeBytes), 'blob'), 'hello\n');
});

test('a blob under a wrong key, without a key, damaged, or too long is refused', () => {
  const other = deriveCryptKey(new Uint8Array(32).fill(9), nodeBytes);
  const data = new Uint8Array(10_000).fill(65);
  const blob = encodeBlob(data, { compress: true, crypt: { key: vectorKey, iv: counting(16) } }, nodeBytes);
  const open = (bytes: Uint8Array, key: typeof other | null, maxBytes = 20_000): Uint8Array =>
    decodeBlob(bytes, { key, maxBytes, what: 'blob' }, nodeBytes);
  assert.deepEqual(new Uint8Array(open(blob, vectorKey)), data);
  assert.throws(() => open(blob, other), /cannot be decrypted with this key/);
  assert.throws(() => open(blob, null), /no key was given/);
  assert.throws(() => open(blob, vectorKey, 9_999), /longer than 9999/);
  for (let at = 8; at < blob.length; at += 1) {
    const spoiled = Uint8Array.from(blob);
    spoiled[at]! ^= 1;
    assert.throws(() => open(spoiled, vectorKey), `flipped bit at ${at}`);
  }
});

test('scrypt and the key it wraps', () => {
  const cost = { n: 65_536, r: 8, p: 1 };
  const derived = stretch('test', { kind: 'scrypt', ...cost, salt: new Uint8Array() }, nodeBytes);
  assert.equal(formatHex(derived), '28cdb1a3bef39396c3860e00d448fe7a0efd8244486ab6feb30457681d31597e');
  const id = deriveCryptKey(derived, nodeBytes).idKey;
  assert.equal(formatHex(id), '758495a21c31047f543f46d694700e02d168568bab37bb0ceece947b591f5100');
});

test('a key file gives its key back to the right passphrase only', () => {
  const about = { created: '2026-01-02T03:04:05+01:00', modified: '2026-01-02T03:04:05+01:00', hint: 'first pet' };
  const kdfs = [
    { kind: 'scrypt', n: 1024, r: 8, p: 1, salt: counting(32) },
    { kind: 'pbkdf2', iterations: 1000, salt: counting(32) },
  ] as const;
  for (const kdf of kdfs) {
    const made = makeKeyFile(vectorKey, { passphrase: 'correct horse', kdf, iv: counting(16) }, about, nodeBytes);
    const read = parseKeyFile(encodeText(formatKeyFile(made)));
    assert.deepEqual(openKeyFile(read, 'correct horse', nodeBytes).idKey, vectorKey.idKey);
    assert.throws(() => openKeyFile(read, 'wrong horse', nodeBytes), /wrong passphrase/);
    assert.throws(() => openKeyFile(read, null, nodeBytes), /none was given/);
    assert.throws(
      () => makeKeyFile(vectorKey, { passphrase: 'four', kdf, iv: counting(16) }, about, nodeBytes),
      /at least 5 bytes/,
    );
    assert.throws(() => openKeyFile({ ...read, fingerprint: new Uint8Array(32) }, 'correct horse', nodeBytes), /fingerprint/);
  }
  const open = parseKeyFile(encodeText(formatKeyFile(makeKeyFile(vectorKey, null, about, nodeBytes))));
  assert.equal(open.hint, 'first pet');
  assert.deepEqual(new Uint8Array(openKeyFile(open, null, nodeBytes).encKey), counting(32));
});

test('a key file that asks for too much is refused, naming the field', () => {
  const file = (kdf: unknown): Uint8Array =>
    encodeText(JSON.stringify({ kdf, created: '2026-01-02T03:04:05Z', modified: '2026-01-02T03:04:05Z', data: 'AAAA' }));
  assert.throws(() => parseKeyFile(file({ Scrypt: { n: 2 ** 24, r: 1024, p: 1, salt: '' } })), /more memory/);
  assert.throws(() => parseKeyFile(file({ Scrypt: { n: 1000, r: 8, p: 1, salt: '' } })), /power of two/);
  assert.throws(() => parseKeyFile(file({ PBKDF2: { iter: 1e12, salt: '' } })), /kdf\.iter/);
  assert.throws(() => parseKeyFile(file({ Argon2: {} })), /neither null, Scrypt nor PBKDF2/);
  assert.throws(() => parseKeyFile(encodeText('[]')), /not a JSON object/);
});

function vectorManifest(): ReturnType<typeof makeManifest> {
  const files = [
    { name: 'test1.img.fidx', cryptMode: 'encrypt', sizeBytes: 200, csum: new Uint8Array(32).fill(1) },
    { name: 'abc.blob', cryptMode: 'none', sizeBytes: 200, csum: new Uint8Array(32).fill(2) },
  ] as const;
  const atSeconds = Date.parse('2020-06-26T13:56:05Z') / 1_000;
  const key = deriveCryptKey(
    stretch('test', { kind: 'scrypt', n: 65_536, r: 8, p: 1, salt: new Uint8Array() }, nodeBytes),
    nodeBytes,
  );
  const manifest = makeManifest(
    { type: 'host', id: 'elsa', atSeconds, files, unprotected: { notes: 'free text' } },
    key,
    nodeBytes,
  );
  assert.equal(formatHex(computeSignature(manifest.json, key, nodeBytes)), formatHex(manifest.signature ?? new Uint8Array()));
  assert.equal(checkSignature(manifest, key, nodeBytes), 'signed');
  assert.throws(() => checkSignature(manifest, vectorKey, nodeBytes), /made with the key/);
  return manifest;
}

test('the signature of a manifest covers all but its unprotected part', () => {
  const manifest = vectorManifest();
  const expected = 'd7b446fb7db081662081d4b40fedd858a1d6307a5aff4ecff7d5bf4fd35679e9';
  assert.equal(formatHex(manifest.signature ?? new Uint8Array()), expected);
  const key = deriveCryptKey(
    stretch('test', { kind: 'scrypt', n: 65_536, r: 8, p: 1, salt: new Uint8Array() }, nodeBytes),
    nodeBytes,
  );
  const text = decodeText(formatManifest(manifest), 'manifest');
  const forged = parseManifest(encodeText(text.replace('"size": 200', '"size": 201')));
  assert.throws(() => checkSignature(forged, key, nodeBytes), /changed after the backup/);
  const noted = parseManifest(encodeText(text.replace('free text', 'other text')));
  assert.equal(checkSignature(noted, key, nodeBytes), 'signed');
  const extended = parseManifest(encodeText(text.replace('"backup-id"', '"added": 1, "backup-id"')));
  assert.throws(() => checkSignature(extended, key, nodeBytes), /changed after the backup/);
  assert.equal(
    checkSignature(parseManifest(encodeText(text.replace(/"signature": "\w+"/, '"signature": null'))), key, nodeBytes),
    'unsigned',
  );
});

type Cut = { sizes: number[]; csum: string };

function cutStream(data: Uint8Array, average: number, pieceBytes: number): Cut {
  const chunker = createChunker(average);
  const cuts: number[] = [];
  let start = 0;
  let at = 0;
  while (at < data.length) {
    const piece = data.subarray(at, at + pieceBytes);
    const cut = chunker.scan(piece);
    at += cut === 0 ? piece.length : cut;
    if (cut > 0) cuts.push(at);
  }
  if (cuts.at(-1) !== data.length) cuts.push(data.length);
  const records: Uint8Array[] = [];
  const sizes: number[] = [];
  for (const end of cuts) {
    sizes.push(end - start);
    records.push(encodeDynamicRecord(end, nodeBytes.sha256(data.subarray(start, end))));
    start = end;
  }
  return { sizes, csum: formatHex(computeIndexCsum(joinBytes(records), nodeBytes)) };
}

function xorshift(bytes: number): Uint8Array {
  const data = new Uint8Array(bytes);
  const view = viewOf(data);
  let state = 1;
  for (let at = 0; at < bytes; at += 4) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    view.setUint32(at, state, true);
  }
  return data;
}

test('the chunker cuts where the others do', () => {
  const counter = new Uint8Array(mebibyte);
  for (let number = 0; number < 262_144; number += 1) viewOf(counter).setUint32(number * 4, number, true);
  assert.deepEqual(cutStream(counter, 65_536, counter.length), {
    sizes: [143_377, 262_144, 262_144, 262_144, 118_767],
    csum: '36c80f3493139f29c19f20073e97620d09501ee42fa4e0111368dba3c1002d8a',
  });
  assert.deepEqual(cutStream(new Uint8Array(40 * mebibyte), 4 * mebibyte, mebibyte), {
    sizes: [16_777_216, 16_777_216, 8_388_608],
    csum: '4f41003dabe81f629620e8897aa672663b10d8820d5a69ccc73574108e4e7e86',
  });
});

test('the chunker cuts a random stream the same in whatever pieces it comes', () => {
  const stream = xorshift(48 * mebibyte);
  assert.equal(formatHex(stream.subarray(0, 8)), '2120040001060804');
  const large = cutStream(stream, 4 * mebibyte, 3_000_001);
  const first = [
    3_663_716, 1_731_612, 1_806_642, 5_887_699, 3_288_552, 3_410_885, 4_132_121, 8_721_632, 2_601_700, 3_760_710, 1_731_749,
    2_969_386,
  ];
  assert.deepEqual(large.sizes.slice(0, 12), first);
  assert.equal(large.sizes.length, 14);
  assert.equal(large.csum, '9c11d4148049eab2769f04dbb6df02d2df0671a8208d57f56d823071663e9559');
  for (const pieceBytes of [1, 63, 64, 65, 4_096, 16_383, mebibyte]) {
    const small = cutStream(stream.subarray(0, mebibyte), 65_536, pieceBytes);
    assert.deepEqual(small.sizes.slice(0, 5), [139_961, 129_272, 64_767, 40_489, 27_313], `pieces of ${pieceBytes}`);
    assert.equal(small.sizes.length, 17);
    assert.equal(small.csum, 'd1b39c2076f45a66181132bd67a459399b55e55f9d1506a8b3963cec7c9d27e9');
  }
});

test('refusals are AppErrors, never crashes, for cut and flipped blobs, indexes, manifests and key files', () => {
  let state = 0x5eed;
  const next = (below: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const records = joinBytes([5, 9, 12].map((end) => encodeDynamicRecord(end, counting(32))));
  const head = { uuid: counting(16), ctimeSeconds: 1, csum: counting(32) };
  const dynamic = joinBytes([encodeIndexHeader({ ...head, kind: 'dynamic', sizeBytes: 12, chunkBytes: 0 }), records]);
  const fixed = joinBytes([encodeIndexHeader({ ...head, kind: 'fixed', sizeBytes: 5, chunkBytes: 4 }), counting(64)]);
  const about = { created: '2026-01-02T03:04:05Z', modified: '2026-01-02T03:04:05Z', hint: null };
  const subjects: { name: string; bytes: Uint8Array; read: (bytes: Uint8Array) => unknown }[] = [
    { name: 'dynamic', bytes: dynamic, read: (bytes) => parseIndex('dynamic', bytes, 'x') },
    { name: 'fixed', bytes: fixed, read: (bytes) => parseIndex('fixed', bytes, 'x') },
    { name: 'manifest', bytes: formatManifest(vectorManifest()), read: parseManifest },
    { name: 'key', bytes: encodeText(formatKeyFile(makeKeyFile(vectorKey, null, about, nodeBytes))), read: parseKeyFile },
    {
      name: 'zstd blob',
      bytes: encodeBlob(new Uint8Array(9_000).fill(7), { compress: true, crypt: null }, nodeBytes),
      read: (bytes) => decodeBlob(bytes, { key: null, maxBytes: 10_000, what: 'x' }, nodeBytes),
    },
  ];
  for (const { name, bytes, read } of subjects) {
    let refused = 0;
    for (let round = 0; round < 400; round += 1) {
      const spoiled = Uint8Array.from(round % 2 === 0 ? bytes.subarray(0, next(bytes.length)) : bytes);
      if (round % 2 === 1) spoiled[next(spoiled.length)]! ^= 1 << next(8);
      try {
        read(spoiled);
      } catch (error) {
        assert.ok(isAppError(error), `${name}, round ${round}: ${String(error)}`);
        refused += 1;
      }
    }
    assert.ok(refused >= 190, `${name}: only ${refused} of 400 refused`);
  }
  assert.throws(() => parseHex('zz', 1, 'field'), /field/);
});
