import { damaged } from './reading.ts';

/** A section of LVM's metadata: values by name, and sections in it. */
export type LvmSection = { [name: string]: LvmValue };
export type LvmValue = string | number | (string | number)[] | LvmSection;

/** Deeper than any of its tools nests. */
const deepest = 8;

/** The text of a volume group's metadata (lvm.conf's syntax: `name = value`, `name { … }`). Raises AppError invalid. */
export function parseLvmText(text: string): LvmSection {
  const tokens = text.replaceAll(/#[^\n]*/g, '').match(/"(?:\\.|[^"\\])*"|[{}[\]=,]|[^\s{}[\]=,"]+/g) ?? [];
  let next = 0;

  function readScalar(token: string): string | number {
    if (token.startsWith('"')) return token.slice(1, -1).replaceAll(/\\(.)/g, '$1');
    return /^-?\d+$/.test(token) ? Number(token) : token;
  }
  function readValue(): string | number | (string | number)[] {
    const token = tokens[next++] ?? '';
    if (token !== '[') return readScalar(token);
    const list: (string | number)[] = [];
    while (next < tokens.length && tokens[next] !== ']') {
      const item = tokens[next++] ?? '';
      if (item !== ',') list.push(readScalar(item));
    }
    next += 1;
    return list;
  }
  function readSection(depth: number): LvmSection {
    if (depth > deepest) throw damaged('the metadata of a volume group nests too deep');
    const section: LvmSection = Object.create(null) as LvmSection;
    while (next < tokens.length) {
      const name = tokens[next++] ?? '';
      if (name === '}') return section;
      const sign = tokens[next++];
      if (sign === '{') section[name] = readSection(depth + 1);
      else if (sign === '=') section[name] = readValue();
      else throw damaged('the metadata of a volume group is no text of LVM');
    }
    return section;
  }
  return readSection(0);
}

export function sectionIn(section: LvmSection | undefined, name: string): LvmSection | undefined {
  const value = section?.[name];
  return typeof value === 'object' && !Array.isArray(value) ? value : undefined;
}

export function numberIn(section: LvmSection | undefined, name: string): number {
  const value = section?.[name];
  if (typeof value !== 'number') throw damaged(`the metadata of a volume group has no ${name}`);
  return value;
}

/** A number or a text as text; else nothing. */
export function textIn(section: LvmSection | undefined, name: string): string {
  const value = section?.[name];
  return typeof value === 'string' || typeof value === 'number' ? String(value) : '';
}
