import type { Command } from 'commander';
import { mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { openArchive } from '#adapters/backup-client/archive-reader.ts';
import { extractFile, type Extracted, listFile, readImages, type ListedFile } from '#adapters/backup-client/image-files.ts';
import type { SnapshotSource } from '#adapters/backup-client/snapshot-source.ts';
import { AppError } from '#base/error.ts';
import { findFile } from '#core/disk-image/find-path.ts';
import { findVolumes, type GuestVolume } from '#core/disk-image/guest-volumes.ts';
import { formatSize } from '#core/text/size.ts';
import type { Cell } from '#core/text/table.ts';
import { startProgress } from '#cli/progress.ts';
import type { Printer } from '#cli/session.ts';
import type { CliWorld } from '#cli/world.ts';

/** `list`: true for the volumes. */
export type FileOptions = { list?: string | true; get?: string[]; to?: string };

export function addFileOptions(command: Command): Command {
  return command
    .option('--list [path]', 'what is there: without a path the volumes (disk0, disk0/1, lvm/GROUP/NAME), else VOLUME/PATH')
    .option('--get <paths...>', 'fetch files or whole directories: VOLUME/PATH')
    .option('--to <directory>', 'where --get puts them; nothing is written over');
}

/** Lists or fetches files out of the disk images of a backup. `diskOf`: the disk that an archive holds; null: it holds none. */
export async function serveFiles(
  { world, printer }: { world: CliWorld; printer: Printer },
  source: SnapshotSource,
  diskOf: (archive: string) => string | null,
  options: FileOptions,
): Promise<void> {
  const wanted = options.get ?? [];
  if (wanted.length === 0 && options.list === undefined)
    throw new AppError('invalid', 'list: say --list, --list PATH, or --get PATH... --to DIRECTORY');
  if (wanted.length > 0 && options.to === undefined) throw new AppError('invalid', 'to: say where the files are to go');
  const disks = [];
  for (const { name: archive } of source.manifest.files) {
    const name = diskOf(archive);
    if (name !== null) disks.push({ name, archive: openArchive(source, archive, await source.openIndex(archive)) });
  }
  const images = readImages(new Map(disks.map(({ name, archive }) => [name, archive])));
  const volumes = await images(findVolumes(disks.map(({ name, archive }) => ({ name, sizeBytes: archive.sizeBytes }))));
  if (options.list === true || options.list === '/') printVolumes(printer, volumes);
  else if (options.list !== undefined) {
    const { files, notes } = await listFile(images, await images(findFile(volumes, options.list)));
    printFiles(printer, files);
    for (const note of notes) world.err.write(`note: ${note}\n`);
  }
  if (wanted.length === 0 || options.to === undefined) return;
  const to = resolve(options.to);
  await mkdir(to, { recursive: true });
  const results: (Extracted & { path: string; target: string })[] = [];
  for (const path of wanted) {
    const found = await images(findFile(volumes, path));
    const target = join(to, found.name);
    using progress = startProgress(world.err);
    const done = await extractFile(images, found, target, (file, bytes) => progress.say(`${file} (${formatSize(bytes)})`));
    progress[Symbol.dispose]();
    for (const note of [...found.volume.fileSystem!.notes, ...done.notes]) world.err.write(`note: ${note}\n`);
    results.push({ path, target, ...done });
  }
  printer.show(results, () =>
    results.map(({ path, target, files, bytes }) => `${path}: ${files} files, ${formatSize(bytes)}, are in ${target}\n`).join(''),
  );
}

function printVolumes(printer: Printer, volumes: readonly GuestVolume[]): void {
  const shown = volumes.map(({ name, sizeBytes, fileSystem, because }) => ({
    name,
    sizeBytes,
    fileSystem: fileSystem?.kind ?? null,
    label: fileSystem?.label ?? '',
    because: [fileSystem === null ? because : '', ...(fileSystem?.notes ?? [])].filter((text) => text !== '').join('; '),
  }));
  const rows = shown.map((one): Cell[] => [one.name, formatSize(one.sizeBytes), one.fileSystem ?? '-', one.label, one.because]);
  const columns = [{ title: 'VOLUME' }, { title: 'SIZE', align: 'right' as const }, ...titles('FILES', 'LABEL', 'NOTE')];
  printer.show(shown, () => printer.table(columns, rows, 'the backup has no disk'));
}

function printFiles(printer: Printer, files: readonly ListedFile[]): void {
  const shown = files.map(({ name, node, link }) => ({
    name,
    kind: node.kind,
    sizeBytes: node.sizeBytes,
    mode: node.mode,
    uid: node.uid,
    gid: node.gid,
    mtimeMs: node.mtimeMs,
    link,
  }));
  const rows = shown.map(({ name, kind, sizeBytes, mode, mtimeMs, link }): Cell[] => [
    `${name}${kind === 'directory' ? '/' : ''}${link === null ? '' : ` -> ${link}`}`,
    kind === 'file' ? formatSize(sizeBytes) : kind,
    mode === null ? '' : mode.toString(8).padStart(4, '0'),
    formatTime(mtimeMs),
  ]);
  const columns = [{ title: 'NAME' }, { title: 'SIZE', align: 'right' as const }, ...titles('MODE', 'CHANGED')];
  printer.show(shown, () => printer.table(columns, rows, 'it is empty'));
}

function titles(...names: string[]): { title: string }[] {
  return names.map((title) => ({ title }));
}

function formatTime(atMs: number): string {
  const date = new Date(atMs);
  return Number.isNaN(date.getTime()) ? '-' : `${date.toISOString().slice(0, 19)}Z`;
}
