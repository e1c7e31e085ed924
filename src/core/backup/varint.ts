import { AppError } from '#base/error.ts';

/** A number of at most 53 bits, 7 bits a byte, lowest first; a negative one ends with a high-bit byte and 00. */
export function encodeVarint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = Math.abs(value);
  while (rest >= 128) {
    bytes.push(128 | (rest % 128));
    rest = Math.floor(rest / 128);
  }
  if (value < 0) bytes.push(128 | rest, 0);
  else bytes.push(rest);
  return Uint8Array.from(bytes);
}

/** Reads one number at `at`. Raises AppError invalid, naming `field`, when it is cut off or out of range. */
export function decodeVarint(bytes: Uint8Array, at: number, field: string): { value: number; next: number } {
  let value = 0;
  for (let count = 0; count < 10; count += 1) {
    const byte = bytes[at + count];
    if (byte === undefined) throw new AppError('invalid', `${field}: cut off in the middle of a number`);
    if (byte === 0 && count > 0) return { value: value === 0 ? 0 : -value, next: at + count + 1 };
    value += (byte & 127) * 2 ** (7 * count);
    if (!Number.isSafeInteger(value)) break;
    if (byte < 128) return { value, next: at + count + 1 };
  }
  throw new AppError('invalid', `${field}: a number out of range`);
}
