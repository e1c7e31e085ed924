import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '#base/error.ts';
import { runCommand } from './command.ts';

const aptMs = 300_000;

/** A Debian package unpacked, not installed. */
export type UnpackedPackage = { root: string; version: string };

/** Reads the packages' list again; needed once on a machine that has none. */
async function updateLists(): Promise<void> {
  await runCommand('apt-get', ['update', '-q'], { deadlineMs: aptMs });
}

async function readPackage(name: string): Promise<{ version: string; depends: string } | null> {
  const text = await runCommand('apt-cache', ['show', '--no-all-versions', name], { deadlineMs: aptMs }).then(String, () => '');
  const version = /^Version: (.*)$/m.exec(text)?.[1];
  return version === undefined ? null : { version, depends: /^Depends: (.*)$/m.exec(text)?.[1] ?? '' };
}

/**
 * The newest package that a meta-package stands for, e.g. `linux-image-cloud-amd64` → `linux-image-6.1.0-56-cloud-amd64`.
 * Raises AppError missing when the machine's Debian does not offer it.
 */
export async function resolveMetaPackage(name: string, pattern: RegExp): Promise<string> {
  let found = await readPackage(name);
  if (found === null) {
    await updateLists();
    found = await readPackage(name);
  }
  const real = found?.depends
    .split(',')
    .map((word) => word.trim().split(' ')[0] ?? '')
    .find((word) => pattern.test(word));
  if (real === undefined) {
    throw new AppError(
      'missing',
      `looking for the Debian package ${name}: apt does not offer it; check the machine's apt sources`,
    );
  }
  return real;
}

/**
 * Downloads one package with apt and unpacks it below `directory`; installs nothing. Raises AppError unavailable when apt cannot
 * fetch it.
 */
export async function unpackPackage(name: string, directory: string): Promise<UnpackedPackage> {
  const downloads = join(directory, 'deb');
  const root = join(directory, 'root');
  mkdirSync(downloads, { recursive: true });
  const download = () =>
    runCommand('apt-get', ['download', '-q', '-o', 'APT::Sandbox::User=root', name], { deadlineMs: aptMs, cwd: downloads });
  // Lists older than the archive name a version that is gone: fetch them afresh and try once more.
  await download().catch(() => updateLists().then(download));
  const file = readdirSync(downloads).find((entry) => entry.endsWith('.deb'));
  if (file === undefined || !existsSync(join(downloads, file))) {
    throw new AppError('missing', `downloading the Debian package ${name}: apt left no file in ${downloads}`);
  }
  await runCommand('dpkg-deb', ['-x', join(downloads, file), root], { deadlineMs: aptMs });
  const version = await runCommand('dpkg-deb', ['-f', join(downloads, file), 'Version'], { deadlineMs: aptMs });
  return { root, version: version.toString().trim() };
}
