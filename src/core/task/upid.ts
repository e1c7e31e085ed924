import { AppError } from '#base/error.ts';

/**
 * The name of a task, unique for ever: who did what where and when. `pid` and `processStart` tell the process, `number` the task in it.
 * `id`: what it is about, or nothing. `who`: user@realm or user@realm!token.
 */
export type Upid = {
  node: string;
  pid: number;
  processStart: number;
  number: number;
  startSeconds: number;
  type: string;
  id: string | null;
  who: string;
};

const form =
  /^UPID:([A-Za-z0-9.-]{1,64}):([0-9A-F]{8}):([0-9A-F]{8,16}):([0-9A-F]{8}):([0-9A-F]{8,16}):([^:\s/]{1,64}):([^:\s/]*):([^:\s/]{3,129}):$/;
const maxChars = 1_024;

/** `UPID:node:PID8:PSTART8:TASK8:START8:type:id:authid:`, hex in capitals, the id escaped as systemd escapes unit names. */
export function formatUpid({ node, pid, processStart, number, startSeconds, type, id, who }: Upid): string {
  const hex = (value: number): string => value.toString(16).toUpperCase().padStart(8, '0');
  const numbers = [pid, processStart, number, startSeconds].map(hex).join(':');
  return `UPID:${node}:${numbers}:${type}:${id === null ? '' : escapeId(id)}:${who}:`;
}

/** Raises AppError invalid, naming `field`. */
export function parseUpid(text: unknown, field = 'upid'): Upid {
  const parts = typeof text === 'string' && text.length <= maxChars ? form.exec(text) : null;
  if (parts === null) throw new AppError('invalid', `${field}: this is not the name of a task`);
  const [, node = '', pid = '', processStart = '', number = '', start = '', type = '', id = '', who = ''] = parts;
  const value = (hex: string): number => Number.parseInt(hex, 16);
  return {
    node,
    pid: value(pid),
    processStart: value(processStart),
    number: value(number),
    startSeconds: value(start),
    type,
    id: id === '' ? null : unescapeId(id),
    who,
  };
}

function escapeId(id: string): string {
  let escaped = '';
  for (const [at, byte] of new TextEncoder().encode(id).entries()) {
    const letter = String.fromCharCode(byte);
    if (letter === '/') escaped += '-';
    else if (/[A-Za-z0-9_]/.test(letter) || (letter === '.' && at > 0)) escaped += letter;
    else escaped += `\\x${byte.toString(16).padStart(2, '0')}`;
  }
  return escaped;
}

function unescapeId(escaped: string): string {
  const bytes: number[] = [];
  for (const [piece] of escaped.replaceAll('-', '/').matchAll(/\\x[0-9a-f]{2}|[^]/g)) {
    bytes.push(piece.length === 4 ? Number.parseInt(piece.slice(2), 16) : (piece.codePointAt(0) ?? 0) & 0xff);
  }
  return new TextDecoder().decode(Uint8Array.from(bytes));
}
