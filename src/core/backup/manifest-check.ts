import { AppError } from '#base/error.ts';
import { decodeText, encodeText, formatHex, isSameBytes, quote } from './bytes.ts';
import type { JsonValue } from './canonical-json.ts';
import type { Manifest } from './manifest.ts';

/** What a server holds of a snapshot's files; `kind` blob: size and checksum are of the encoded file. */
export type StoredFile = { kind: 'blob' | 'index'; sizeBytes: number; csum: Uint8Array };

/**
 * Fills in what a known client leaves empty in its manifest: the checksum of a blob, `""`, and with it its size. A signed manifest is
 * left as it is. Returns the manifest's text, changed or not; what is wrong with it otherwise is for others to find.
 */
export function fillManifest(text: Uint8Array, stored: ReadonlyMap<string, StoredFile>): Uint8Array {
  let json: JsonValue;
  try {
    json = JSON.parse(decodeText(text, 'manifest')) as JsonValue;
  } catch {
    return text;
  }
  if (!isObject(json) || (json['signature'] ?? null) !== null || !Array.isArray(json['files'])) return text;
  let isChanged = false;
  const files = json['files'].map((entry) => {
    if (!isObject(entry) || entry['csum'] !== '' || typeof entry['filename'] !== 'string') return entry;
    const file = stored.get(entry['filename']);
    if (file?.kind !== 'blob') return entry;
    isChanged = true;
    return { ...entry, csum: formatHex(file.csum), size: file.sizeBytes };
  });
  return isChanged ? encodeText(JSON.stringify({ ...json, files }, null, 2)) : text;
}

/** Raises AppError invalid when a manifest lists a file that did not come, or says something else of it than what came. */
export function checkManifestFiles(manifest: Manifest, stored: ReadonlyMap<string, StoredFile>): void {
  for (const { name, sizeBytes, csum } of manifest.files) {
    const file = stored.get(name);
    if (file === undefined)
      throw new AppError('invalid', `manifest: it lists ${quote(name)}, which was not uploaded in this backup`);
    if (file.sizeBytes !== sizeBytes)
      throw new AppError('invalid', `manifest: ${name}: its size is said to be ${sizeBytes}, but ${file.sizeBytes} bytes came`);
    if (!isSameBytes(file.csum, csum))
      throw new AppError(
        'invalid',
        `manifest: ${name}: its csum is said to be ${formatHex(csum)}, but what came has ${formatHex(file.csum)}`,
      );
  }
}

function isObject(value: JsonValue | undefined): value is { [key: string]: JsonValue } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
