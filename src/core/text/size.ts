import { AppError } from '#base/error.ts';

const unitBytes: Record<string, number> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };
const sizePattern = /^(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?$/i;

/**
 * Reads a size such as `512`, `10M`, `2G`, `1.5T` (binary units; `MiB` and `MB` mean the same) and returns bytes, at least 1.
 * Raises AppError invalid, naming `field`.
 */
export function parseSize(text: string, field: string): number {
  const match = sizePattern.exec(text.trim());
  const unit = unitBytes[(match?.[2] ?? '').toUpperCase()];
  // 1.1G is no whole number of bytes; the fraction of a byte is dropped. Without a unit a fraction makes no sense.
  const bytes = match === null || unit === undefined ? NaN : unit === 1 ? Number(match[1]) : Math.floor(Number(match[1]) * unit);
  if (!Number.isSafeInteger(bytes) || bytes < 1) {
    throw new AppError(
      'invalid',
      `${field}: ${JSON.stringify(text)} is not a size; write a whole number of bytes or 512K, 10M, 2G, 1T`,
    );
  }
  return bytes;
}

/** Bytes for people: `512 B`, `9.5 MiB`, `2 GiB`. */
export function formatSize(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let index = 0;
  while (value >= 1024 && index < units.length - 1) {
    value /= 1024;
    index += 1;
  }
  const digits = value >= 100 || Number.isInteger(value) ? 0 : 1;
  return `${value.toFixed(digits)} ${units[index]}`;
}
