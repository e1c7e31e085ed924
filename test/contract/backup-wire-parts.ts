import assert from 'node:assert/strict';
import { createCipheriv, createHash, randomBytes } from 'node:crypto';
import { setTimeout as wait } from 'node:timers/promises';
import { crc32, zstdCompressSync } from 'node:zlib';
import { upgrade, type Answer, type Client } from './backup-client.ts';

/**
 * The formats and the order of calls as other programs know them: written from their description, with none of our own code, so that
 * a mistake in it cannot hide itself.
 */
export const chunkBytes = 4 * 1024 * 1024;
const magic = {
  plain: '42ab3807be8370a1',
  zstd: '31b958426fb6a37f',
  encrypted: '7b6785be222d4cf0',
  fidx: '2f7f41ed91fd0fcd',
  didx: '1c914ea519bab3cd',
} as const;

export function sha256(...pieces: Uint8Array[]): Buffer {
  const hash = createHash('sha256');
  for (const piece of pieces) hash.update(piece);
  return hash.digest();
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
export function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

/** `crc` unset: zeros, as some clients send chunks. */
export function plainBlob(data: Uint8Array, { compress = false, crc = true } = {}): Buffer {
  const payload = compress ? zstdCompressSync(data) : data;
  const head = Buffer.from(compress ? magic.zstd : magic.plain, 'hex');
  return Buffer.concat([head, u32(crc ? crc32(payload) : 0), payload]);
}

/** With a 16-byte IV; the CRC is of the cipher text alone. */
export function encryptedBlob(data: Uint8Array, key: Uint8Array, crc = true): Buffer {
  const iv = randomBytes(16);
  const cipher = createCipheriv('aes-256-gcm', key, iv);
  const text = Buffer.concat([cipher.update(data), cipher.final()]);
  return Buffer.concat([Buffer.from(magic.encrypted, 'hex'), u32(crc ? crc32(text) : 0), iv, cipher.getAuthTag(), text]);
}

export type WireChunk = { digest: string; size: number; encoded: Buffer };
export function plainChunk(data: Uint8Array, how: { compress?: boolean; crc?: boolean } = {}): WireChunk {
  return { digest: sha256(data).toString('hex'), size: data.length, encoded: plainBlob(data, how) };
}

/** What a fixed index file has to be, but for the uuid and the time, which are taken from `found`. */
export function fixedIndexFile(digests: readonly string[], size: number, found: Uint8Array): Buffer {
  const records = Buffer.from(digests.join(''), 'hex');
  const head = Buffer.concat([
    Buffer.from(magic.fidx, 'hex'),
    found.subarray(8, 32),
    sha256(records),
    u64(size),
    u64(chunkBytes),
  ]);
  return Buffer.concat([head, Buffer.alloc(4096 - head.length), records]);
}
export function dynamicIndexFile(entries: readonly WireChunk[], found: Uint8Array): Buffer {
  const records = dynamicRecords(entries);
  const head = Buffer.concat([Buffer.from(magic.didx, 'hex'), found.subarray(8, 32), sha256(records)]);
  return Buffer.concat([head, Buffer.alloc(4096 - head.length), records]);
}
export function dynamicRecords(entries: readonly WireChunk[]): Buffer {
  let end = 0;
  return Buffer.concat(
    entries.flatMap(({ digest, size }) => {
      end += size;
      return [u64(end), Buffer.from(digest, 'hex')];
    }),
  );
}
export function fixedCsum(digests: readonly string[]): string {
  return sha256(Buffer.from(digests.join(''), 'hex')).toString('hex');
}

export type Listed = { filename: string; size: number; csum: string; 'crypt-mode'?: string };
export type Where = { type?: string; id: string; at: number; ns?: string };

export function manifestBlob({ type = 'vm', id, at }: Where, files: readonly Listed[], more: object = {}): Buffer {
  const json = { 'backup-type': type, 'backup-id': id, 'backup-time': at, files, unprotected: {}, ...more };
  return plainBlob(Buffer.from(JSON.stringify(json)), { compress: true });
}

const protocols = { backup: 'proxmox-backup-protocol-v1', reader: 'proxmox-backup-reader-protocol-v1' } as const;
type Query = Record<string, string | number>;

/** A session, or how it was refused. */
export async function tryOpen(
  port: number,
  kind: 'backup' | 'reader',
  { type = 'vm', id, at, ns }: Where,
  more: Query = {},
  authorization = 'PBSAPIToken u@pbs!t:geheim',
): Promise<Session | { status: number; rest: string }> {
  const query = {
    store: 'store',
    'backup-type': type,
    'backup-id': id,
    'backup-time': at,
    ...(ns === undefined ? {} : { ns }),
    ...more,
  };
  const text = new URLSearchParams(
    Object.entries(query).map(([name, value]): [string, string] => [name, String(value)]),
  ).toString();
  const client = await upgrade(port, `//api2/json/${kind}?${text}`, [
    'Host: x',
    `Authorization: ${authorization}`,
    'Connection: upgrade',
    `Upgrade: ${protocols[kind]}`,
  ]);
  return 'call' in client ? new Session(client) : client;
}

export async function open(...given: Parameters<typeof tryOpen>): Promise<Session> {
  const session = await tryOpen(...given);
  assert.ok(session instanceof Session, JSON.stringify(session));
  return session;
}

/** The calls of a session; `ok` raises on a refusal, `refuse` on anything else. */
export class Session {
  readonly #client: Client;

  constructor(client: Client) {
    this.#client = client;
  }

  call(method: string, path: string, query: Query = {}, body?: Uint8Array | object): Promise<Answer> {
    return this.#client.call(method, path, query, body);
  }

  /** `data` of the answer. */
  async ok(method: string, path: string, query: Query = {}, body?: Uint8Array | object): Promise<unknown> {
    const { status, text } = await this.call(method, path, query, body);
    assert.equal(status, 200, `${method} ${path}: ${text}`);
    return (JSON.parse(text) as { data: unknown }).data;
  }

  /** The session goes on after it. */
  async refuse(pattern: RegExp, method: string, path: string, query: Query = {}, body?: Uint8Array | object): Promise<void> {
    const { status, text } = await this.call(method, path, query, body);
    assert.deepEqual([status, pattern.test(text)], [400, true], `${method} ${path}: ${status} ${text}`);
    assert.ok(text.length >= 8);
  }

  send(wid: number, kind: 'fixed' | 'dynamic', { digest, size, encoded }: WireChunk): Promise<Answer> {
    return this.call('POST', `${kind}_chunk`, { wid, digest, size, 'encoded-size': encoded.length }, encoded);
  }

  /** A whole image: opened, chunks sent, appended, closed. What the manifest lists of it. */
  async image(name: string, size: number, chunks: readonly WireChunk[]): Promise<Listed> {
    const wid = Number(await this.ok('POST', 'fixed_index', { 'archive-name': name, size }));
    for (const answer of await Promise.all(chunks.map((chunk) => this.send(wid, 'fixed', chunk))))
      assert.equal(answer.status, 200, answer.text);
    const digests = chunks.map(({ digest }) => digest);
    await this.ok(
      'PUT',
      'fixed_index',
      {},
      { wid, 'digest-list': digests, 'offset-list': digests.map((_, at) => at * chunkBytes) },
    );
    const csum = fixedCsum(digests);
    assert.equal(await this.ok('POST', 'fixed_close', { wid, 'chunk-count': digests.length, size, csum }), null);
    return { filename: name, size, csum, 'crypt-mode': 'none' };
  }

  async blob(name: string, encoded: Buffer): Promise<Listed> {
    assert.equal(await this.ok('POST', 'blob', { 'file-name': name, 'encoded-size': encoded.length }, encoded), null);
    return { filename: name, size: encoded.length, csum: sha256(encoded).toString('hex'), 'crypt-mode': 'none' };
  }

  async finish(where: Where, files: readonly Listed[]): Promise<void> {
    await this.blob('index.json.blob', manifestBlob(where, files));
    assert.equal(await this.ok('POST', 'finish'), null);
  }

  /** Ends the connection, and waits until the other side has done so too. */
  async end(): Promise<void> {
    this.#client.http2.close();
    this.#client.socket.end();
    for (const deadline = Date.now() + 10_000; Date.now() < deadline && !this.#client.socket.destroyed;) await wait(5);
    this.#client.socket.destroy();
  }
}
