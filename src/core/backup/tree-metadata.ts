import { joinBytes } from './bytes.ts';
import { pxarType, type PxarMetadata } from './pxar-format.ts';

const capabilityName = 'security.capability';
const keptPrefixes = ['user.', 'trusted.'];

/** How an extended attribute stands in an archive; null: it has no place there. */
export function encodeXattr(name: Uint8Array, value: Uint8Array): PxarMetadata | null {
  const text = String.fromCharCode(...name);
  if (text === capabilityName) return { type: pxarType.fcaps, content: value };
  if (!keptPrefixes.some((prefix) => text.startsWith(prefix))) return null;
  return { type: pxarType.xattr, content: joinBytes([name, Uint8Array.of(0), value]) };
}

/** The attribute that a metadata item holds; null: it is none, or one that an archive has no business to set. */
export function decodeXattr({ type, content }: PxarMetadata): { name: Uint8Array; value: Uint8Array } | null {
  if (type === pxarType.fcaps) {
    return { name: Uint8Array.from(capabilityName, (letter) => letter.charCodeAt(0)), value: content };
  }
  if (type !== pxarType.xattr) return null;
  const end = content.indexOf(0);
  if (end < 1) return null;
  const name = content.subarray(0, end);
  const text = String.fromCharCode(...name);
  return keptPrefixes.some((prefix) => text.startsWith(prefix)) ? { name, value: content.subarray(end + 1) } : null;
}
