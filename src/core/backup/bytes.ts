import { AppError } from '#base/error.ts';

const hexOf = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'));
const utf8 = new TextEncoder();
const strictUtf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Bytes as lower-case hex digits. */
export function formatHex(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += hexOf[byte];
  return text;
}

/** Hex digits (either case) as exactly `bytes` bytes. Raises AppError invalid, naming `field`. */
export function parseHex(text: unknown, bytes: number, field: string): Uint8Array {
  if (typeof text !== 'string' || text.length !== bytes * 2 || !/^[0-9a-fA-F]*$/.test(text)) {
    throw new AppError('invalid', `${field}: ${quote(text)} is not ${bytes * 2} hex digits`);
  }
  return Uint8Array.from({ length: bytes }, (_, index) => Number.parseInt(text.slice(index * 2, index * 2 + 2), 16));
}

/** Text as UTF-8. */
export function encodeText(text: string): Uint8Array {
  return utf8.encode(text);
}

/** UTF-8 as text. Raises AppError invalid, naming `field`, for anything that is not UTF-8. */
export function decodeText(bytes: Uint8Array, field: string): string {
  try {
    return strictUtf8.decode(bytes);
  } catch (cause) {
    throw new AppError('invalid', `${field}: not UTF-8 text`, { cause });
  }
}

/** The parts one after the other. */
export function joinBytes(parts: readonly Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

/** Same length and same content. */
export function isSameBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let index = 0; index < a.length; index += 1) if (a[index] !== b[index]) return false;
  return true;
}

/** Bytewise order, as of `memcmp`; a prefix comes first. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const shared = Math.min(a.length, b.length);
  for (let index = 0; index < shared; index += 1) {
    const difference = (a[index] ?? 0) - (b[index] ?? 0);
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}

/** A view on exactly these bytes. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** An unsigned 64-bit number that a JavaScript number can hold. Raises AppError invalid, naming `field`, for larger ones. */
export function readU64(view: DataView, offset: number, field: string): number {
  return safeNumber(view.getBigUint64(offset, true), field);
}

/** A signed 64-bit number, likewise. */
export function readI64(view: DataView, offset: number, field: string): number {
  return safeNumber(view.getBigInt64(offset, true), field);
}

/** A number as 8 bytes, little-endian. */
export function encodeU64(value: number): Uint8Array {
  const bytes = new Uint8Array(8);
  viewOf(bytes).setBigUint64(0, BigInt(value), true);
  return bytes;
}

function safeNumber(value: bigint, field: string): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number)) throw new AppError('invalid', `${field}: ${value} is out of range`);
  return number;
}

/** A value in an error message: short, and never with control characters. */
export function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 80 ? `${text.slice(0, 77)}…` : text;
}
