import { AppError } from '#base/error.ts';

/**
 * Reads `key=value,key=value` into a map, in order. A key may stand once and must be known (`known` accepts it).
 * Raises AppError invalid, naming `field` and the key.
 */
export function parseFields(text: string, field: string, known: (key: string) => boolean, expected: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const part of text.split(',')) {
    const at = part.indexOf('=');
    const key = part.slice(0, Math.max(0, at)).trim();
    const value = part.slice(at + 1).trim();
    if (at < 1 || key === '' || value === '') {
      throw new AppError('invalid', `${field}: ${JSON.stringify(part)} is not key=value; expected ${expected}`);
    }
    if (!known(key)) throw new AppError('invalid', `${field}: unknown key ${JSON.stringify(key)}; expected ${expected}`);
    if (found.has(key)) throw new AppError('invalid', `${field}: ${key} is given twice`);
    found.set(key, value);
  }
  return found;
}

/** Reads a whole number from `min` to `max`. Raises AppError invalid, naming `field`. */
export function parseWholeNumber(text: string, field: string, min: number, max: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(value >= min && value <= max)) {
    throw new AppError('invalid', `${field}: ${JSON.stringify(text)} is not a whole number from ${min} to ${max}`);
  }
  return value;
}

/** Reads a number such as `0.3` from `min` to `max`. Raises AppError invalid, naming `field`. */
export function parseNumber(text: string, field: string, min: number, max: number): number {
  const value = /^\d+(\.\d+)?$/.test(text) ? Number(text) : NaN;
  if (!(value >= min && value <= max)) {
    throw new AppError('invalid', `${field}: ${JSON.stringify(text)} is not a number from ${min} to ${max}`);
  }
  return value;
}

/** Returns `text` if it is one of `choices`. Raises AppError invalid, naming `field` and the choices. */
export function parseChoice<Choice extends string>(text: string, field: string, choices: readonly Choice[]): Choice {
  const choice = choices.find((candidate) => candidate === text);
  if (choice === undefined) throw new AppError('invalid', `${field}: ${JSON.stringify(text)} is none of ${choices.join(', ')}`);
  return choice;
}
