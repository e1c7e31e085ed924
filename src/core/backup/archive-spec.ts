import { AppError } from '#base/error.ts';
import { quote } from './bytes.ts';
import {
  parseArchiveName,
  parseBackupId,
  parseBackupType,
  readSnapshotTime,
  type ArchiveKind,
  type BackupType,
} from './names.ts';

/** What is to be backed up: an image in fixed chunks, a directory as an archive, a small file as a blob. */
export type ArchiveSpec = { source: 'image' | 'tree' | 'file'; name: string; path: string };

const sources = {
  img: { source: 'image', extension: 'fidx' },
  pxar: { source: 'tree', extension: 'didx' },
  conf: { source: 'file', extension: 'blob' },
} as const;

/** Reads `NAME.img:PATH`, `NAME.pxar:DIRECTORY` or `NAME.conf:FILE`. Raises AppError invalid. */
export function parseArchiveSpec(text: string): ArchiveSpec {
  const match = /^([^:]+)\.(img|pxar|conf):(.+)$/s.exec(text);
  if (match === null) {
    throw new AppError('invalid', `archive: ${quote(text)} is not NAME.img:PATH, NAME.pxar:DIRECTORY or NAME.conf:FILE`);
  }
  const kind = match[2] as keyof typeof sources;
  const { source, extension } = sources[kind];
  return { source, name: parseArchiveName(`${match[1]}.${kind}.${extension}`, 'archive').name, path: match[3] ?? '' };
}

/** Reads several; a name may come once. Raises AppError invalid. */
export function parseArchiveSpecs(texts: readonly string[]): ArchiveSpec[] {
  const specs = texts.map(parseArchiveSpec);
  const names = specs.map(({ name }) => name);
  const twice = names.find((name, at) => names.indexOf(name) !== at);
  if (twice !== undefined) throw new AppError('invalid', `archive: ${twice} is given twice`);
  return specs;
}

/** The one of a snapshot's files that `text` means: its whole name, or the name without what the server added. */
export function chooseArchive(text: string, files: readonly string[]): { name: string; kind: ArchiveKind } {
  const name = files.find((file) => file === text || file.replace(/\.(fidx|didx|blob)$/, '') === text);
  if (name === undefined) {
    throw new AppError('missing', `archive: the snapshot has no ${quote(text)}; it has ${files.join(', ') || 'no archives'}`);
  }
  return parseArchiveName(name);
}

/** `TYPE/ID/TIME`; without the time (null) the newest of the group is meant. Raises AppError invalid. */
export function parseSnapshotText(text: string): { type: BackupType; id: string; atSeconds: number | null } {
  const [type, id, time, ...more] = text.split('/');
  const atSeconds = time === undefined ? null : readSnapshotTime(time);
  if (more.length > 0 || id === undefined || (time !== undefined && atSeconds === null)) {
    throw new AppError('invalid', `snapshot: ${quote(text)} is not TYPE/ID or TYPE/ID/YYYY-MM-DDTHH:MM:SSZ`);
  }
  return { type: parseBackupType(type, 'snapshot: type'), id: parseBackupId(id, 'snapshot: id'), atSeconds };
}
