import { copyFileSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { AppError } from '#base/error.ts';
import { cutKernelPayload } from './bzimage.ts';
import { type CacheOptions, type Progress, ensureCached, sourceText } from './cache.ts';
import { runCommand } from './command.ts';
import { resolveMetaPackage, unpackPackage } from './debian-package.ts';
import { type KernelModule, orderModules, readModuleDepends } from './kernel-module.ts';

const metaPackage = 'linux-image-cloud-amd64';
const decompressMs = 60_000;

/** Drivers a guest of the lab needs; what these depend on is found in the modules themselves. ext4 is built in. */
const drivers = ['virtio_pci', 'virtio_blk', 'virtio_net', 'virtio-rng', 'button', 'evdev'];

/** A kernel ready to boot directly: an uncompressed ELF (QEMU enters it by PVH) and drivers in the order they must be loaded. */
export type LabKernel = {
  directory: string;
  vmlinux: string;
  /** The distribution's compressed image, for whoever must boot it the ordinary way. */
  bzImage: string;
  /** Kernel release, e.g. `6.1.0-56-cloud-amd64`. */
  release: string;
  packageVersion: string;
  modules: string[];
};

/**
 * Debian's cloud kernel for the lab's guests, from the cache or built there. An existing one is kept when Debian publishes a newer
 * kernel, so that two runs on one machine compare like with like; `make clean` makes room for the new one.
 */
export async function ensureKernel(options: CacheOptions = {}): Promise<LabKernel> {
  const inputs = [
    metaPackage,
    drivers.join(),
    sourceText(import.meta.filename),
    sourceText(join(import.meta.dirname, 'bzimage.ts')),
  ];
  const directory = await ensureCached({ kind: 'kernel', inputs, build: buildKernel }, options);
  const about = JSON.parse(readFileSync(join(directory, 'kernel.json'), 'utf8')) as {
    release: string;
    packageVersion: string;
    modules: string[];
  };
  return {
    directory,
    vmlinux: join(directory, 'vmlinux'),
    bzImage: join(directory, 'vmlinuz'),
    release: about.release,
    packageVersion: about.packageVersion,
    modules: about.modules.map((name) => join(directory, 'modules', name)),
  };
}

async function buildKernel(directory: string, progress: Progress): Promise<void> {
  const name = await resolveMetaPackage(metaPackage, /^linux-image-\d/);
  progress(`kernel: downloading ${name}`);
  const work = join(directory, 'work');
  const { root, version } = await unpackPackage(name, work);
  const release = name.replace(/^linux-image-/, '');
  copyFileSync(join(root, 'boot', `vmlinuz-${release}`), join(directory, 'vmlinuz'));
  await writeVmlinux(directory);
  const modules = await copyModules(join(root, 'lib/modules', release), join(directory, 'modules'));
  writeFileSync(join(directory, 'kernel.json'), JSON.stringify({ release, packageVersion: version, modules }, null, 2));
  rmSync(work, { recursive: true });
  progress(`kernel: ${release} ready`);
}

/** Booting the uncompressed kernel saves the guest from unpacking itself on an emulated CPU. */
async function writeVmlinux(directory: string): Promise<void> {
  const payload = cutKernelPayload(readFileSync(join(directory, 'vmlinuz')));
  const elf = await runCommand(payload.command, payload.args, { deadlineMs: decompressMs, input: payload.compressed });
  if (elf.byteLength !== payload.uncompressedBytes || elf.readUInt32BE(0) !== 0x7f454c46) {
    throw new AppError(
      'unsupported',
      `unpacking the kernel: got ${elf.byteLength} bytes that are not the ELF file its header promises`,
    );
  }
  writeFileSync(join(directory, 'vmlinux'), elf);
}

async function copyModules(source: string, target: string): Promise<string[]> {
  mkdirSync(target);
  const files = readdirSync(source, { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith('.ko'));
  const available = new Map(files.map((path) => [basename(path, '.ko').replaceAll('-', '_'), join(source, path)]));
  const known = (name: string): KernelModule => {
    const path = available.get(name.replaceAll('-', '_'));
    if (path === undefined) throw new AppError('missing', `looking for the driver ${name}: not in ${dirname(source)}`);
    return { name: basename(path), depends: readModuleDepends(readFileSync(path)) };
  };
  const ordered = orderModules(drivers, known);
  for (const file of ordered) {
    const path = available.get(basename(file, '.ko').replaceAll('-', '_')) ?? '';
    // Debug symbols are most of a module's size, and the guest loads it through an emulated disk or memory.
    await runCommand('strip', ['-g', '-o', join(target, file), path], { deadlineMs: decompressMs });
  }
  return ordered;
}
