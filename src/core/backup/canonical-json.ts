import { AppError } from '#base/error.ts';
import { compareBytes, encodeText, quote } from './bytes.ts';

export type JsonValue = null | boolean | number | string | JsonValue[] | { [key: string]: JsonValue };
export type JsonObject = { [key: string]: JsonValue };

/** Nesting beyond this is an attack, not a manifest. */
const depthLimit = 32;

/**
 * The one text of a value over which signatures are made: keys sorted bytewise at every level, no white space, shortest escapes.
 * Raises AppError invalid for null, for a number that is no whole number a reader in another language would print the same, and for
 * text that is not Unicode.
 */
export function formatCanonicalJson(value: JsonValue): string {
  return formatValue(value, 'value', 0);
}

function formatValue(value: JsonValue, path: string, depth: number): string {
  if (depth > depthLimit) throw new AppError('invalid', `${quote(path)}: nested deeper than ${depthLimit}`);
  if (value === null) throw new AppError('invalid', `${path}: null has no canonical form`);
  if (typeof value === 'string') return formatString(value, path);
  if (typeof value === 'boolean') return String(value);
  if (typeof value === 'number') return formatNumber(value, path);
  if (Array.isArray(value)) {
    return `[${value.map((item, index) => formatValue(item, `${path}[${index}]`, depth + 1)).join(',')}]`;
  }
  const members = Object.keys(value)
    .map((key) => ({ key, order: encodeText(key) }))
    .toSorted((a, b) => compareBytes(a.order, b.order))
    .map(({ key }) => `${formatString(key, path)}:${formatValue(value[key] ?? null, `${path}.${key}`, depth + 1)}`);
  return `{${members.join(',')}}`;
}

function formatString(text: string, path: string): string {
  if (!text.isWellFormed()) throw new AppError('invalid', `${path}: text with half a surrogate pair has no canonical form`);
  return JSON.stringify(text);
}

function formatNumber(value: number, path: string): string {
  if (!Number.isSafeInteger(value) || Object.is(value, -0)) {
    throw new AppError('invalid', `${path}: the number ${value} has no canonical form`);
  }
  return String(value);
}
