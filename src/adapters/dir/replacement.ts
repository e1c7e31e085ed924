import { rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError } from '#base/error.ts';
import type { GuestLock } from '#base/guest-lock.ts';
import type { Layer, Manifest } from '#core/storage/manifest.ts';
import { replaceContent } from '#core/storage/replaced-content.ts';
import type { GuestStorage, NewContent } from '#ports/guest-storage.ts';
import type { ImageUser } from './command.ts';
import { createLayer, describeChain, sealTops } from './layer-files.ts';
import { commitManifest, guestDirectory, readManifest } from './manifest-file.ts';
import { syncPath } from './durable-file.ts';
import { serveWritable, writeContent } from './serve-disks.ts';
import type { ConnectQmp } from './storage-daemon.ts';

export type ReplacementDeps = {
  root: string;
  run: string;
  user: ImageUser;
  connectQmp: ConnectQmp;
  flushExport: (socketPath: string, exportName: string) => Promise<void>;
  lock: GuestLock;
  /** Raises AppError unless the copy here is the primary one of that generation. */
  requirePrimary: (vmid: number, generation: number, what: string) => Promise<Manifest>;
  /** No merge touches the layers until what it returns is called. */
  hold: (vmid: number) => () => void;
};

type Added = { disk: string; layer: Layer }[];
type Written = { added: Added; changedBytes: number };

const what = 'replace the disks of';

/**
 * Makes what `GuestStorage.replace` is. The copy is locked at both ends only, for the content may be long in coming:
 *
 *     look, hold the layers ─► new layers above them, filled over NBD ─► the same disks still? may it count? ─► rename of the manifest
 */
export function createReplacement(deps: ReplacementDeps): GuestStorage['replace'] {
  return async (vmid, generation, content) => {
    const { manifest, done } = await deps.lock.run(vmid, async () => {
      const found = await deps.requirePrimary(vmid, generation, what);
      refuseTail(found, content);
      refuseLostDisks(found, content);
      return { manifest: found, done: deps.hold(vmid) };
    });
    try {
      const written = await writeReplacement(deps, manifest, content);
      return await deps.lock.run(vmid, () => take(deps, manifest, content, written));
    } finally {
      done();
    }
  };
}

async function take(
  deps: ReplacementDeps,
  begun: Manifest,
  content: NewContent,
  written: Written,
): Promise<{ changedBytes: number }> {
  const { vmid, generation } = begun;
  const { changedBytes } = written;
  try {
    const manifest = await deps.requirePrimary(vmid, generation, what);
    if (JSON.stringify(manifest.disks) !== JSON.stringify(begun.disks))
      throw new AppError('conflict', `${what} guest ${vmid}: they became others meanwhile`);
    await content.confirm();
    if (changedBytes > 0 || !isSameSize(manifest, content))
      await commitReplacement(deps, manifest, content, written.added, changedBytes);
    return { changedBytes };
  } finally {
    const now = await readManifest(deps.root, vmid);
    // A commit whose rename happened counts, whatever failed after it.
    if (now === null || !now.leftBehind.some((tail) => tail.name === content.tail)) await dropLayers(deps, vmid, written.added);
  }
}

function isSameSize({ disks }: Manifest, content: NewContent): boolean {
  const sizes = new Map(disks.map(({ name, layers }) => [name, layers.at(-1)?.sizeBytes]));
  return sizes.size === content.disks.length && content.disks.every(({ name, sizeBytes }) => sizes.get(name) === sizeBytes);
}

function refuseTail({ vmid, leftBehind }: Manifest, { tail }: NewContent): void {
  if (leftBehind.some(({ name }) => name === tail))
    throw new AppError('conflict', `${what} guest ${vmid}: there is a tail ${tail} already`);
}

/**
 * Has the disks of a primary copy written anew, into layers of which no manifest knows. Returns them with how many bytes came out different; on any
 * failure they are gone.
 */
async function writeReplacement(deps: ReplacementDeps, manifest: Manifest, content: NewContent): Promise<Written> {
  const directory = guestDirectory(deps.root, manifest.vmid);
  const added: Added = [];
  try {
    for (const { name, sizeBytes } of content.disks) {
      const above = manifest.disks.find((disk) => disk.name === name)?.layers.at(-1) ?? null;
      const format = above === null ? 'raw' : 'qcow2';
      const file = `${name}-g${manifest.generation}-${content.tail}.${format}`;
      added.push({
        disk: name,
        layer: await createLayer(directory, deps.user, { file, format, sizeBytes, above, ownWrites: true }),
      });
    }
    return { added, changedBytes: await writeLayers(deps, manifest, added, content) };
  } catch (error) {
    await dropLayers(deps, manifest.vmid, added);
    throw error;
  }
}

/** The new layers are the disks from now on: all of them or none. */
async function commitReplacement(
  deps: ReplacementDeps,
  manifest: Manifest,
  content: NewContent,
  added: Added,
  changedBytes: number,
): Promise<void> {
  const directory = guestDirectory(deps.root, manifest.vmid);
  for (const { layer } of added) await syncPath(join(directory, layer.file));
  // Until now it was the guest's: how long it is kept counts from here, not from when the guest last wrote.
  const written = await Promise.all(added.map(({ layer }) => stat(join(directory, layer.file))));
  const untilAtMs = Math.round(Math.max(...written.map(({ mtimeMs }) => mtimeMs)));
  const sealed = await sealTops(directory, manifest);
  const old = { name: content.tail, sizeBytes: changedBytes, fromAtMs: content.fromAtMs, untilAtMs };
  await commitManifest(deps.root, replaceContent(sealed, old, added));
}

async function dropLayers(deps: ReplacementDeps, vmid: number, added: Added): Promise<void> {
  for (const { layer } of added) await rm(join(guestDirectory(deps.root, vmid), layer.file), { force: true });
}

/** A tail names disks that are in use above it; one that would have nothing above it could not be kept. */
function refuseLostDisks({ vmid, disks }: Manifest, content: NewContent): void {
  const lost = disks.filter(({ name }) => !content.disks.some((disk) => disk.name === name)).map(({ name }) => name);
  if (lost.length === 0) return;
  throw new AppError(
    'conflict',
    `${what} guest ${vmid}: it has ${lost.join(', ')}, and the new content has not; nothing was changed. Make a guest of another number of it`,
  );
}

async function writeLayers(deps: ReplacementDeps, manifest: Manifest, added: Added, content: NewContent): Promise<number> {
  const chains = added.map(({ disk, layer }) => {
    const below = manifest.disks.find((candidate) => candidate.name === disk)?.layers ?? [];
    const nodeName = `new-${disk}`;
    const layers = [...below, layer];
    const blockdev = describeChain(guestDirectory(deps.root, manifest.vmid), layers, { nodeName, writableLayers: 1 });
    return { disk, nodeName, blockdev };
  });
  return await writeContent(await serveWritable(join(deps.run, `${manifest.vmid}-replace`), chains, deps), content);
}
