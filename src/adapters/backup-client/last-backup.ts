import { isAppError } from '#base/error.ts';
import { blobLimits, decodeBlob } from '#core/backup/blob.ts';
import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import type { ChunkIndex } from '#core/backup/chunk-index.ts';
import type { CryptKey } from '#core/backup/crypt-key.ts';
import { parseManifest, type Manifest } from '#core/backup/manifest.ts';
import { manifestFile } from '#core/backup/names.ts';
import { checkIndex, checkManifestKey } from '#core/backup/snapshot-check.ts';
import type { WireSession } from './wire-session.ts';

/** The manifest of the last backup, if it was made with the same key: its chunks need not be sent again. null: there is none of use. */
export async function readLastManifest(
  session: WireSession,
  key: CryptKey | null,
  functions: ByteFunctions,
): Promise<Manifest | null> {
  const { status, bytes } = await session.ask({ method: 'GET', path: 'previous', query: { 'archive-name': manifestFile } });
  if (status !== 200) return null;
  try {
    const options = { key: null, maxBytes: blobLimits.wholeBytes, what: 'manifest of the last backup' };
    const manifest = parseManifest(decodeBlob(bytes, options, functions));
    checkManifestKey(manifest, key, functions);
    return manifest;
  } catch (error) {
    if (isAppError(error, 'denied', 'invalid')) return null; // another key, or damaged: everything is sent
    throw error;
  }
}

/** An index of the last backup; from then on the server lets its chunks be referred to. null: there is none of use. */
export async function readLastIndex(
  session: WireSession,
  last: Manifest,
  name: string,
  isEncrypted: boolean,
  functions: ByteFunctions,
): Promise<ChunkIndex | null> {
  const entry = last.files.find((file) => file.name === name);
  if (entry === undefined || (entry.cryptMode === 'encrypt') !== isEncrypted) return null;
  const { status, bytes } = await session.ask({ method: 'GET', path: 'previous', query: { 'archive-name': name } });
  if (status !== 200) return null;
  try {
    return checkIndex(entry, bytes, functions);
  } catch (error) {
    if (isAppError(error, 'invalid')) return null;
    throw error;
  }
}

/** Sends a small file in its envelope. */
export async function sendBlob(session: WireSession, name: string, encoded: Uint8Array): Promise<void> {
  const query = { 'file-name': name, 'encoded-size': encoded.length };
  await session.call({ method: 'POST', path: 'blob', query, body: encoded });
}
