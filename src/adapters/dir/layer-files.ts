import { chown, open, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { DiskLayers, Layer, Manifest } from '#core/storage/manifest.ts';
import { runCommand, type ImageUser } from './command.ts';
import { syncPath } from './durable-file.ts';
import { hashQcow2Metadata } from './qcow2-metadata.ts';

/**
 * The argument of blockdev-add for a stack of layers. The chain is given whole and by node: what a qcow2 header says about its
 * backing file is a hint for people. The uppermost `writableLayers` are writable.
 */
export function describeChain(
  directory: string,
  layers: readonly Layer[],
  options: { nodeName?: string; writableLayers: number },
): Record<string, unknown> {
  let chain: Record<string, unknown> | null = null;
  for (const [index, layer] of layers.entries()) {
    const top = index === layers.length - 1;
    const readOnly = index < layers.length - options.writableLayers;
    const filename = join(directory, layer.file);
    const file = { driver: 'file', filename, aio: 'threads', discard: 'unmap', 'read-only': readOnly };
    chain = {
      driver: layer.format,
      file,
      'read-only': readOnly,
      discard: 'unmap',
      ...(top && options.nodeName !== undefined ? { 'node-name': options.nodeName } : {}),
      ...(layer.format === 'qcow2' ? { backing: chain } : {}),
    };
  }
  if (chain === null) throw new AppError('missing', `${directory}: the disk has no layers`);
  return chain;
}

/** A new empty raw file or overlay of `sizeBytes`; an unlisted leftover of the same name is replaced. */
export async function createLayer(
  directory: string,
  user: ImageUser,
  layer: { file: string; format: Layer['format']; sizeBytes: number; above: Layer | null; ownWrites: boolean },
): Promise<Layer> {
  const path = join(directory, layer.file);
  await rm(path, { force: true });
  const file = await open(path, 'wx', 0o600);
  if (layer.format === 'raw') await file.truncate(layer.sizeBytes);
  await file.close();
  if (user !== null) await chown(path, user.uid, user.gid);
  if (layer.format === 'qcow2') {
    // Subclusters keep a guest's small writes small; a received layer gets whole 64 KiB pieces and needs none.
    const shape = layer.ownWrites ? 'cluster_size=128k,extended_l2=on' : 'cluster_size=64k';
    const hint = layer.above === null ? [] : ['-u', '-F', layer.above.format, '-b', layer.above.file];
    await runCommand(['qemu-img', 'create', '-q', '-f', 'qcow2', '-o', shape, ...hint, path, String(layer.sizeBytes)], {
      what: `create layer ${path}`,
      user,
      deadlineMs: limits.imageCommandMs,
    });
  }
  return { file: layer.file, format: layer.format, sizeBytes: layer.sizeBytes, sealed: null };
}

/** Makes sure a layer that nobody writes any more is on disk, and tells what it is to be recognised by. */
export async function sealLayer(directory: string, layer: Layer): Promise<Layer> {
  const path = join(directory, layer.file);
  await syncPath(path);
  const { size: fileBytes } = await stat(path);
  const metadataSha256 = layer.format === 'qcow2' ? await hashQcow2Metadata(path) : '';
  return { ...layer, sealed: { fileBytes, metadataSha256 } };
}

/** Makes sure that what a guest wrote itself is on disk, and tells what those layers are to be recognised by. */
export async function sealTops(directory: string, manifest: Manifest): Promise<Manifest> {
  const disks: DiskLayers[] = [];
  for (const { name, layers } of manifest.disks) {
    const top = layers.at(-1);
    disks.push({ name, layers: top === undefined ? [] : [...layers.slice(0, -1), await sealLayer(directory, top)] });
  }
  return { ...manifest, disks };
}

/** Raises AppError missing or invalid, naming the file, when a layer is not what the manifest says. */
export async function verifyLayer(directory: string, layer: Layer, user: ImageUser): Promise<void> {
  const path = join(directory, layer.file);
  const found = await stat(path).catch((cause: unknown) => {
    throw new AppError('missing', `verify the copy: ${path} is missing`, { cause });
  });
  if (layer.format === 'raw') {
    if (found.size < layer.sizeBytes) {
      throw new AppError('invalid', `verify the copy: ${path} has ${found.size} bytes, expected ${layer.sizeBytes}`);
    }
    return;
  }
  if (layer.sealed === null) return checkImage(path, user);
  if (found.size !== layer.sealed.fileBytes) {
    throw new AppError('invalid', `verify the copy: ${path} has ${found.size} bytes, ${layer.sealed.fileBytes} were sealed`);
  }
  if ((await hashQcow2Metadata(path)) !== layer.sealed.metadataSha256) {
    throw new AppError('invalid', `verify the copy: the tables of ${path} are not the ones that were sealed`);
  }
}

/** Lets qemu-img look for contradictions inside one overlay. Raises AppError invalid naming it. */
export async function checkImage(path: string, user: ImageUser): Promise<void> {
  const image = { driver: 'qcow2', file: { driver: 'file', filename: path }, backing: null };
  await runCommand(['qemu-img', 'check', '-q', `json:${JSON.stringify(image)}`], {
    what: `verify the copy: ${path}`,
    user,
    deadlineMs: limits.imageCommandMs,
  });
}
