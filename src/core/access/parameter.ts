import { AppError } from '#base/error.ts';

/** What a description of the API says of a parameter. */
export type ParameterSchema = {
  type: 'string' | 'integer' | 'boolean' | 'array';
  description: string;
  minimum?: number;
  maximum?: number;
  maxLength?: number;
  enum?: readonly string[];
};

/** A parameter of a call: how it is read and how it is described. `read` raises AppError invalid naming the field. */
export type Parameter<Value> = { schema: ParameterSchema; isOptional: boolean; read(value: unknown, field: string): Value };
export type ParameterTable = Readonly<Record<string, Parameter<unknown>>>;
/** The values that a table's parameters are read to. */
export type ParametersOf<Table extends ParameterTable> = {
  [Name in keyof Table]: Table[Name] extends Parameter<infer Value> ? Value : never;
};

/** Texts of query strings are numbers too. */
export function integer(minimum: number, maximum: number, description: string): Parameter<number> {
  return {
    schema: { type: 'integer', description, minimum, maximum },
    isOptional: false,
    read(value, field) {
      const number = typeof value === 'string' && /^-?\d{1,16}$/.test(value) ? Number(value) : value;
      if (typeof number !== 'number' || !Number.isSafeInteger(number) || number < minimum || number > maximum)
        throw refusal(field, value, `is not a whole number from ${minimum} to ${maximum}`);
      return number;
    },
  };
}

/** Booleans also come as 0, 1, and words. Missing: false. */
export function flag(description: string): Parameter<boolean> {
  return {
    schema: { type: 'boolean', description },
    isOptional: true,
    read(value, field) {
      if (value === undefined || value === null) return false;
      const word = typeof value === 'string' ? value.toLowerCase() : value;
      if (word === true || word === 1 || word === '1' || word === 'true' || word === 'yes' || word === 'on') return true;
      if (word === false || word === 0 || word === '0' || word === 'false' || word === 'no' || word === 'off') return false;
      throw refusal(field, value, 'is neither true nor false');
    },
  };
}

export function text(maxLength: number, description: string): Parameter<string> {
  return parsed(maxLength, description, (value) => value);
}

/** A text that `parse` turns into what it means. */
export function parsed<Value>(
  maxLength: number,
  description: string,
  parse: (value: string, field: string) => Value,
): Parameter<Value> {
  return {
    schema: { type: 'string', description, maxLength },
    isOptional: false,
    read(value, field) {
      if (typeof value !== 'string' || value.length > maxLength)
        throw refusal(field, value, `is not a text of at most ${maxLength} letters`);
      return parse(value, field);
    },
  };
}

/** One of a few words. */
export function choice<Word extends string>(values: readonly Word[], description: string): Parameter<Word> {
  return {
    schema: { type: 'string', description, enum: values },
    isOptional: false,
    read(value, field) {
      const word = values.find((candidate) => candidate === value);
      if (word === undefined) throw refusal(field, value, `is none of ${values.join(', ')}`);
      return word;
    },
  };
}

/** A list; one text in a query string is a list of one. */
export function list<Value>(item: Parameter<Value>, most: number, description: string): Parameter<Value[]> {
  return {
    schema: { type: 'array', description, maximum: most },
    isOptional: true,
    read(value, field) {
      const items: unknown[] = value === undefined || value === null ? [] : Array.isArray(value) ? value : [value];
      if (items.length > most) throw refusal(field, items.length, `values are more than ${most}`);
      return items.map((each) => item.read(each, field));
    },
  };
}

/** The same, but it need not be given. */
export function optional<Value>(parameter: Parameter<Value>): Parameter<Value | null> {
  return {
    schema: parameter.schema,
    isOptional: true,
    read: (value, field) => (value === undefined || value === null ? null : parameter.read(value, field)),
  };
}

/** Reads all parameters of a call. Raises AppError invalid for one that is wrong, missing, or not in the table. */
export function readParameters<Table extends ParameterTable>(
  table: Table,
  given: Readonly<Record<string, unknown>>,
): ParametersOf<Table> {
  for (const name of Object.keys(given)) {
    if (!Object.hasOwn(table, name)) throw new AppError('invalid', `${name.slice(0, 64)}: there is no such parameter`);
  }
  const values: Record<string, unknown> = {};
  for (const [name, parameter] of Object.entries(table)) {
    const value = Object.hasOwn(given, name) ? given[name] : undefined;
    if ((value === undefined || value === null) && !parameter.isOptional) throw new AppError('invalid', `${name}: it is missing`);
    values[name] = parameter.read(value, name);
  }
  return values as ParametersOf<Table>;
}

function refusal(field: string, value: unknown, why: string): AppError {
  const shown = JSON.stringify(value) ?? String(value);
  return new AppError('invalid', `${field}: ${shown.length > 80 ? `${shown.slice(0, 77)}…` : shown} ${why}`);
}
