/**
 * Shapes of what is read from files and other machines, checked by hand-made code: a general schema library takes a program longer to load than
 * everything else it consists of, and a guard must be there in seconds.
 */

/** What is wrong where. `unknown` and `missing` are about the key that the path ends with. */
export type Trouble = { path: string[]; kind: 'unknown' | 'missing' | 'wrong'; text: string };

/** Tells whether a value is a T: adds what is wrong to `found`. */
export type Shape<T> = { check: (value: unknown, path: string[], found: Trouble[]) => void; readonly of?: T };
/** What a shape lets through. */
export type Shaped<S> = S extends Shape<infer T> ? T : never;

type Optional<T> = Shape<T> & { isOptional: true };
type Fields = Record<string, Shape<unknown>>;
type OptionalKeys<F extends Fields> = { [K in keyof F]: F[K] extends { isOptional: true } ? K : never }[keyof F];
type FieldsOf<F extends Fields> = { [K in Exclude<keyof F, OptionalKeys<F>>]: Shaped<F[K]> } & {
  [K in OptionalKeys<F>]?: Shaped<F[K]>;
};

/** Everything that is wrong with a value; empty when it has the shape. */
export function findTroubles<T>(shape: Shape<T>, value: unknown): Trouble[] {
  const found: Trouble[] = [];
  shape.check(value, [], found);
  return found;
}

/** Whether a value has the shape. */
export function hasShape<T>(shape: Shape<T>, value: unknown): value is T {
  return findTroubles(shape, value).length === 0;
}

function expect<T>(isGood: (value: unknown) => boolean, text: string): Shape<T> {
  return { check: (value, path, found) => void (isGood(value) || found.push({ path, kind: 'wrong', text })) };
}

/** A string of `minLength` to `maxLength` characters that matches `pattern`. */
export function textShape(limits: { minLength?: number; maxLength?: number; pattern?: RegExp } = {}): Shape<string> {
  const { minLength = 0, maxLength = Infinity, pattern } = limits;
  const isGood = (value: unknown) =>
    typeof value === 'string' && value.length >= minLength && value.length <= maxLength && (pattern?.test(value) ?? true);
  const wanted = [
    ...(minLength > 0 ? [`of at least ${minLength} characters`] : []),
    ...(maxLength < Infinity ? [`of at most ${maxLength} characters`] : []),
    ...(pattern === undefined ? [] : [`that matches ${pattern.source}`]),
  ];
  return expect(isGood, ['must be string', ...wanted].join(' '));
}

/** A finite number. */
export function numberShape({ minimum = -Infinity }: { minimum?: number } = {}): Shape<number> {
  const isGood = (value: unknown) => typeof value === 'number' && Number.isFinite(value) && value >= minimum;
  return expect(isGood, minimum === -Infinity ? 'must be number' : `must be number from ${minimum}`);
}

/** A whole number. */
export function wholeShape({
  minimum = -Infinity,
  maximum = Infinity,
}: { minimum?: number; maximum?: number } = {}): Shape<number> {
  const isGood = (value: unknown) => Number.isSafeInteger(value) && Number(value) >= minimum && Number(value) <= maximum;
  const from = minimum === -Infinity ? '' : ` from ${minimum}`;
  return expect(isGood, `must be integer${from}${maximum === Infinity ? '' : ` to ${maximum}`}`);
}

/** One of a few words or numbers. */
export function choiceShape<const T extends string | number>(choices: readonly T[]): Shape<T> {
  return expect((value) => choices.includes(value as T), `must be one of ${choices.join(', ')}`);
}

/** A list of at least `minItems` things of one shape. */
export function listShape<T>(item: Shape<T>, { minItems = 0 }: { minItems?: number } = {}): Shape<T[]> {
  return {
    check(value, path, found) {
      if (!Array.isArray(value)) found.push({ path, kind: 'wrong', text: 'must be a list' });
      else if (value.length < minItems) found.push({ path, kind: 'wrong', text: `must have at least ${minItems} items` });
      else value.forEach((entry, index) => item.check(entry, [...path, String(index)], found));
    },
  };
}

/** The shape, or null. */
export function nullableShape<T>(shape: Shape<T>): Shape<T | null> {
  return { check: (value, path, found) => void (value === null || shape.check(value, path, found)) };
}

/** A field that may be left out. */
export function optionalShape<T>(shape: Shape<T>): Optional<T> {
  return { ...shape, isOptional: true };
}

/** An object with these fields; `strict`: and no others. */
export function objectShape<F extends Fields>(fields: F, how: 'strict' | 'open' = 'open'): Shape<FieldsOf<F>> {
  return {
    check(value, path, found) {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) {
        found.push({ path, kind: 'wrong', text: 'must be object' });
        return;
      }
      const given = value as Record<string, unknown>;
      for (const key of how === 'strict' ? Object.keys(given) : []) {
        if (!Object.hasOwn(fields, key)) found.push({ path: [...path, key], kind: 'unknown', text: 'is not a known key' });
      }
      for (const [key, shape] of Object.entries(fields)) {
        if (Object.hasOwn(given, key) && given[key] !== undefined) shape.check(given[key], [...path, key], found);
        else if (!('isOptional' in shape)) found.push({ path: [...path, key], kind: 'missing', text: 'is missing' });
      }
    },
  };
}
