import { join } from 'node:path';
import { type CacheOptions, type Progress, ensureCached } from './cache.ts';
import { bootstrapDebian13 } from './debian13.ts';
import { mkdirSync, rmSync } from 'node:fs';

/** Changes when this recipe makes something else than before. */
const recipeVersion = '1';
const packages = ['qemu-system-x86', 'qemu-utils'];

/**
 * Debian 13's QEMU, run out of a folder with its own libraries: Debian 12's panics kernels of the machines' kind now and then. It needs no
 * chroot, so it sees this host's files and namespaces as any program does.
 */
export type Emulator = { directory: string; system: string[]; image: string[] };

/** Unpacks the emulator when it is not in the cache. */
export async function ensureEmulator(options: CacheOptions = {}): Promise<Emulator> {
  const inputs = [recipeVersion, packages.join()];
  const directory = await ensureCached({ kind: 'emulator', inputs, build: buildEmulator }, options);
  const root = join(directory, 'root');
  const libraries = join(root, 'usr/lib/x86_64-linux-gnu');
  const run = [join(root, 'usr/lib64/ld-linux-x86-64.so.2'), '--library-path', libraries];
  const data = ['usr/share/qemu', 'usr/share/seabios'].flatMap((folder) => ['-L', join(root, folder)]);
  return {
    directory,
    system: [...run, join(root, 'usr/bin/qemu-system-x86_64'), ...data],
    image: [...run, join(root, 'usr/bin/qemu-img')],
  };
}

async function buildEmulator(directory: string, progress: Progress): Promise<void> {
  progress(`emulator: unpacking Debian 13's QEMU into a folder`);
  const work = join(directory, 'work');
  mkdirSync(work);
  await bootstrapDebian13(join(directory, 'root'), work, { packages });
  rmSync(work, { recursive: true });
  progress('emulator: ready');
}
