import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, statSync, unlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { nodeBytes } from '#adapters/bytes/node-bytes.ts';
import { createDatastore, openDatastore } from '#adapters/datastore/datastore.ts';
import { touchAccessTime } from '#adapters/datastore/native.ts';
import { openNodeFiles } from '#adapters/datastore/node-files.ts';
import { checkBlob, encodeBlob } from '#core/backup/blob.ts';
import { encodeText, formatHex, joinBytes } from '#core/backup/bytes.ts';
import { judgeChunk } from '#core/backup/chunk-check.ts';
import { computeIndexCsum, digestAt, encodeDynamicRecord, encodeIndexHeader, parseIndex } from '#core/backup/chunk-index.ts';
import { chunkPath } from '#core/backup/names.ts';
import type { Datastore } from '#ports/datastore.ts';

/** One step of the benchmark of garbage collection, in a process of its own; prints how long it took and what it removed. */
const [, , job = '', root = '', references = '0', snapshots = '0', garbage = '0'] = process.argv;
const chunks = Number(references) / 10;
const daySeconds = 86_400;

function open(): Promise<Datastore> {
  const files = openNodeFiles(root);
  return openDatastore({
    files,
    functions: nodeBytes,
    checkChunk: async (path, digest) => {
      const encoded = await files.read(path);
      return encoded === null ? null : judgeChunk(encoded, digest, nodeBytes);
    },
    checkers: 1,
    nowMs: Date.now,
    randomBytes,
    toLocal: () => ({ year: 2026, month: 1, day: 1, hour: 0 }),
    sync: 'none',
  });
}

/** Chunks and indexes as backups would leave them. */
async function build(): Promise<void> {
  await createDatastore({ files: openNodeFiles(root) });
  const digests: Uint8Array[] = [];
  for (let number = 0; number < chunks; number += 1) {
    const data = encodeText(`chunk ${number}`);
    const digest = createHash('sha256').update(data).digest();
    digests.push(digest);
    writeFileSync(join(root, chunkPath(formatHex(digest))), encodeBlob(data, { compress: false, crypt: null }, nodeBytes));
  }
  const each = Number(references) / Number(snapshots);
  for (let at = 0; at < Number(snapshots); at += 1) {
    const records = joinBytes(
      Array.from({ length: each }, (_, number) => encodeDynamicRecord((number + 1) * 16, digests[(at * 977 + number) % chunks]!)),
    );
    const csum = computeIndexCsum(records, nodeBytes);
    const head = encodeIndexHeader({
      kind: 'dynamic',
      uuid: randomBytes(16),
      ctimeSeconds: 1,
      csum,
      sizeBytes: each * 16,
      chunkBytes: 0,
    });
    const folder = join(
      root,
      'vm',
      String(100 + (at % 10)),
      `2026-01-01T00:${String(Math.floor(at / 60)).padStart(2, '0')}:${String(at % 60).padStart(2, '0')}Z`,
    );
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'drive.didx'), joinBytes([head, records]));
  }
  const store = await open();
  await store.collectGarbage({ scan: true });
  await store.close();
}

/** Chunks that nothing refers to: of a backup that was broken off, two days ago; `isKilled`: by a crash of this process. */
async function litter(isKilled: boolean): Promise<void> {
  const store = await open();
  const session = await store.startBackup(
    { namespace: [], type: 'vm', id: 'litter', atSeconds: Math.floor(Date.now() / 1_000) },
    'root@pam',
  );
  const old = Date.now() / 1_000 - 2 * daySeconds;
  for (let number = 0; number < Number(garbage); number += 1) {
    const data = randomBytes(32);
    const digest = createHash('sha256').update(data).digest();
    const encoded = encodeBlob(data, { compress: false, crypt: null }, nodeBytes);
    await session.addChunk({ digest, sizeBytes: data.length, encoded, header: checkBlob(encoded, 'chunk', nodeBytes) });
    utimesSync(join(root, chunkPath(formatHex(digest))), old, old);
  }
  if (isKilled) process.kill(process.pid, 'SIGKILL');
  await session.abort();
  await store.close();
}

/** Marks every reference by the access time of its chunk, then removes what was not marked for a day. */
function sweep(): number {
  const limitMs = Date.now() - daySeconds * 1_000 - 300_000;
  for (const path of listIndexes(root)) {
    const index = parseIndex('dynamic', readFileSync(path), path);
    for (let at = 0; at < index.count; at += 1) touchAccessTime(join(root, chunkPath(formatHex(digestAt(index, at)))));
  }
  let removed = 0;
  for (const prefix of readdirSync(join(root, '.chunks'))) {
    for (const name of readdirSync(join(root, '.chunks', prefix))) {
      const path = join(root, '.chunks', prefix, name);
      if (statSync(path).atimeMs >= limitMs) continue;
      unlinkSync(path);
      removed += 1;
    }
  }
  return removed;
}

function listIndexes(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    if (entry.name.startsWith('.')) return [];
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return listIndexes(path);
    return entry.name.endsWith('.didx') ? [path] : [];
  });
}

async function measure(): Promise<{ tookMs: number; removed: number }> {
  if (job === 'sweep') {
    const beganMs = performance.now();
    const removed = sweep();
    return { removed, tookMs: Math.round(performance.now() - beganMs) };
  }
  const store = await open();
  const beganMs = performance.now();
  const removed = job === 'nothing' ? 0 : (await store.collectGarbage({ scan: job === 'ours-scan' })).removedChunks;
  const tookMs = Math.round(performance.now() - beganMs);
  await store.close();
  return { removed, tookMs };
}

if (job === 'build') await build();
else if (job === 'litter' || job === 'crash') await litter(job === 'crash');
console.log(JSON.stringify(['build', 'litter'].includes(job) ? {} : await measure()));
