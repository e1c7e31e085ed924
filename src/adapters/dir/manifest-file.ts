import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { chunkMapName, isArriving } from '#core/storage/arrival.ts';
import { listFiles, type Manifest } from '#core/storage/manifest.ts';
import { formatManifest, parseManifest } from '#core/storage/manifest-text.ts';
import { replaceFile, syncPath } from './durable-file.ts';

const manifestName = 'manifest.json';

/** The folder of one guest. */
export function guestDirectory(root: string, vmid: number): string {
  return join(root, String(vmid));
}

/** The manifest of a guest; null when this node holds nothing of it. Raises AppError invalid when it cannot be understood. */
export async function readManifest(root: string, vmid: number): Promise<Manifest | null> {
  const file = join(guestDirectory(root, vmid), manifestName);
  try {
    return parseManifest(await readFile(file, 'utf8'), file);
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
}

/** The commit of everything: when this returns, the manifest is what a power cut leaves. */
export async function commitManifest(root: string, manifest: Manifest): Promise<void> {
  await replaceFile(join(guestDirectory(root, manifest.vmid), manifestName), formatManifest(manifest));
}

/** Makes the guest's folder; others may pass through it, for QEMU opens files in it as its own user. */
export async function makeGuestDirectory(root: string, vmid: number): Promise<string> {
  const directory = guestDirectory(root, vmid);
  await mkdir(directory, { recursive: true, mode: 0o711 });
  await syncPath(root);
  return directory;
}

/** The guests that have a folder here. */
export async function listGuests(root: string): Promise<number[]> {
  const names = await readdir(root).catch((error: unknown) => {
    if (isMissing(error)) return [];
    throw error;
  });
  return names.filter((name) => /^\d+$/.test(name)).map(Number);
}

/** Removes every file that the manifest does not list; without a manifest, the folder. Returns what was removed. */
export async function removeUnlisted(root: string, vmid: number, manifest: Manifest | null): Promise<string[]> {
  const directory = guestDirectory(root, vmid);
  if (manifest === null) {
    await rm(directory, { recursive: true, force: true });
    return [directory];
  }
  const wanted = listFiles(manifest).add(manifestName);
  if (isArriving(manifest)) for (const { name } of manifest.disks) wanted.add(chunkMapName(name));
  const unlisted = (await readdir(directory)).filter((name) => !wanted.has(name));
  for (const name of unlisted) await rm(join(directory, name), { recursive: true, force: true });
  return unlisted;
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}
