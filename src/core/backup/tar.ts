import { AppError } from '#base/error.ts';
import { encodeText, joinBytes } from './bytes.ts';

/** An entry of a tar file; `path` and `link` as bytes, directories with a slash at their end. Its content follows, filled up to 512. */
export type TarEntry = {
  kind: 'file' | 'directory' | 'symlink' | 'hardlink' | 'char-device' | 'block-device' | 'fifo';
  path: Uint8Array;
  link: Uint8Array | null;
  mode: number;
  uid: number;
  gid: number;
  sizeBytes: number;
  mtimeSeconds: number;
  device: { major: number; minor: number } | null;
};

const block = 512;
const flags: Record<TarEntry['kind'], string> = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  'char-device': '3',
  'block-device': '4',
  directory: '5',
  fifo: '6',
};
const longest = { path: 100, octal: 0o77777777777 } as const;

/** What stands before an entry's content: its header, after one with what does not fit into it (POSIX pax). */
export function encodeTarHeader(entry: TarEntry): Uint8Array {
  const extra: Uint8Array[] = [];
  const add = (name: string, value: Uint8Array): void => void extra.push(encodeRecord(name, value));
  if (entry.path.length > longest.path || hasHighByte(entry.path)) add('path', entry.path);
  if (entry.link !== null && (entry.link.length > longest.path || hasHighByte(entry.link))) add('linkpath', entry.link);
  if (entry.sizeBytes > longest.octal) add('size', encodeText(String(entry.sizeBytes)));
  if (entry.mtimeSeconds < 0) add('mtime', encodeText(String(entry.mtimeSeconds)));
  for (const id of ['uid', 'gid'] as const) if (entry[id] > 0o7777777) add(id, encodeText(String(entry[id])));
  const header = encodeHeader(entry, flags[entry.kind]);
  if (extra.length === 0) return header;
  const content = joinBytes(extra);
  const before = encodeHeader({ ...entry, path: encodeText('pax'), link: null, sizeBytes: content.length, device: null }, 'x');
  return joinBytes([before, content, new Uint8Array(tarPadding(content.length)), header]);
}

/** Zeros that follow a content of this size. */
export function tarPadding(sizeBytes: number): number {
  return (block - (sizeBytes % block)) % block;
}

/** What ends a tar file. */
export function encodeTarEnd(): Uint8Array {
  return new Uint8Array(2 * block);
}

function encodeHeader(entry: TarEntry, flag: string): Uint8Array {
  const header = new Uint8Array(block);
  const text = (at: number, value: string): void => header.set(encodeText(value), at);
  const octal = (at: number, digits: number, value: number): void =>
    text(at, Math.max(0, value).toString(8).padStart(digits, '0').slice(-digits));
  header.set(entry.path.subarray(0, longest.path), 0);
  octal(100, 7, entry.mode & 0o7777);
  octal(108, 7, entry.uid > 0o7777777 ? 0 : entry.uid);
  octal(116, 7, entry.gid > 0o7777777 ? 0 : entry.gid);
  octal(124, 11, entry.sizeBytes > longest.octal ? 0 : entry.sizeBytes);
  octal(136, 11, entry.mtimeSeconds);
  text(156, flag);
  if (entry.link !== null) header.set(entry.link.subarray(0, longest.path), 157);
  text(257, 'ustar\u000000');
  if (entry.device !== null) {
    octal(329, 7, entry.device.major);
    octal(337, 7, entry.device.minor);
  }
  header.fill(0x20, 148, 156);
  octal(
    148,
    6,
    header.reduce((sum, byte) => sum + byte, 0),
  );
  header[154] = 0;
  return header;
}

/** `LENGTH NAME=VALUE\n`, the length counting its own digits. */
function encodeRecord(name: string, value: Uint8Array): Uint8Array {
  const rest = joinBytes([encodeText(` ${name}=`), value, encodeText('\n')]);
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  if (length > 1_000_000) throw new AppError('invalid', `tar: ${name} is too long`);
  return joinBytes([encodeText(String(length)), rest]);
}

function hasHighByte(bytes: Uint8Array): boolean {
  return bytes.some((byte) => byte > 0x7e);
}
