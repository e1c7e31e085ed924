import { chown, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { createPrimary } from '#core/storage/manifest.ts';
import type { DiskLayers, Layer } from '#core/storage/manifest.ts';
import type { NewDisk } from '#ports/guest-storage.ts';
import { runCommand, type ImageUser } from './command.ts';
import { syncPath } from './durable-file.ts';
import { createLayer } from './layer-files.ts';
import { commitManifest, makeGuestDirectory, removeUnlisted } from './manifest-file.ts';

/** Makes the disks of a guest and, last, the manifest that lists them. Raises AppError invalid, missing. */
export async function createGuest(
  deps: { root: string; user: ImageUser },
  vmid: number,
  generation: number,
  disks: NewDisk[],
): Promise<void> {
  const directory = await makeGuestDirectory(deps.root, vmid);
  await removeUnlisted(deps.root, vmid, createPrimary(vmid, generation, []));
  const made: DiskLayers[] = [];
  for (const { name, sizeBytes, importFile, fill } of disks) {
    const base = { file: `${name}-base.raw`, format: 'raw' as const, sizeBytes, above: null, ownWrites: true };
    const layer =
      fill === undefined ? await createLayer(directory, deps.user, base) : await takeFilled(directory, deps.user, base, fill);
    if (importFile !== undefined) await importImage(importFile, join(directory, layer.file), sizeBytes);
    await syncPath(join(directory, layer.file));
    made.push({ name, layers: [layer] });
  }
  await commitManifest(deps.root, createPrimary(vmid, generation, made));
}

/** The lowest layer of a disk as `fill` wrote it. Raises AppError invalid when it wrote another size. */
async function takeFilled(
  directory: string,
  user: ImageUser,
  { file, format, sizeBytes }: Pick<Layer, 'file' | 'format' | 'sizeBytes'>,
  fill: (path: string) => Promise<void>,
): Promise<Layer> {
  const path = join(directory, file);
  await rm(path, { force: true });
  await fill(path);
  const { size } = await stat(path);
  if (size !== sizeBytes) throw new AppError('invalid', `make ${path}: it was given ${size} bytes, the disk has ${sizeBytes}`);
  if (user !== null) await chown(path, user.uid, user.gid);
  return { file, format, sizeBytes, sealed: null };
}

async function importImage(from: string, to: string, sizeBytes: number): Promise<void> {
  const { size } = await stat(from).catch((cause: unknown) => {
    throw new AppError('missing', `import ${from}: it cannot be read`, { cause });
  });
  if (size > sizeBytes) throw new AppError('invalid', `import ${from}: it has ${size} bytes, the disk has ${sizeBytes}`);
  // -n keeps the file we made, with its owner and its full length; zeroes stay holes.
  await runCommand(['qemu-img', 'convert', '-q', '-n', '--target-is-zero', '-f', 'raw', '-O', 'raw', from, to], {
    what: `import ${from}`,
    user: null,
    deadlineMs: limits.imageCopyMs,
  });
}
