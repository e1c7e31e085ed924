import { closeSync, copyFileSync, ftruncateSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type CacheOptions, type Progress, ensureCached, sourceText } from './cache.ts';
import { runCommand } from './command.ts';
import { bootstrapDebian13, type MachineVersions, readMachineVersions } from './debian13.ts';
import { ensureZfsModule } from './zfs-module.ts';

const setup = join(import.meta.dirname, '../guests/machine-setup.sh');

/** A server as its owner has it before Holdfast, plus what our package depends on: the machines cannot reach a mirror. */
const packages = [
  'systemd-sysv',
  'systemd-timesyncd',
  'dbus',
  'udev',
  'kmod',
  'iproute2',
  'iputils-ping',
  'procps',
  'e2fsprogs',
  'openssh-server',
  'tiny-initramfs',
  'etcd-server',
  'etcd-client',
  'qemu-system-x86',
  'qemu-utils',
  'util-linux-extra',
  'fence-agents-ipmilan',
  'busybox-static',
  'socat',
];
/** Sparse; our preflight wants 10 GiB free. */
const rootBytes = 20 * 1024 ** 3;
/** Changes when this recipe makes something else than before. */
const recipeVersion = '1';
const fileSystemMs = 180_000;
const keyMs = 10_000;

/** A machine boots `kernel` with `rootImage` (raw ext4, sparse; to be used under an overlay); `sshKey` opens it for root. */
export type MachineImage = { kernel: string; rootImage: string; rootBytes: number; sshKey: string; versions: MachineVersions };

/**
 * The servers of the full lab: Debian 13 with OpenZFS, from the cache or built there out of Debian packages alone (some 5 minutes quiet, 20 busy;
 * most of it the compiling of OpenZFS, which is kept on its own). An existing one is kept when Debian publishes newer packages.
 */
export async function ensureMachine(options: CacheOptions = {}): Promise<MachineImage> {
  const inputs = [recipeVersion, packages.join(), String(rootBytes), sourceText(setup)];
  const build = (directory: string, progress: Progress) => buildMachine(directory, options, progress);
  const directory = await ensureCached({ kind: 'machine', inputs, build }, options);
  return {
    kernel: join(directory, 'vmlinuz'),
    rootImage: join(directory, 'root.raw'),
    rootBytes,
    sshKey: join(directory, 'ssh-key'),
    versions: JSON.parse(readFileSync(join(directory, 'versions.json'), 'utf8')) as MachineVersions,
  };
}

async function buildMachine(directory: string, options: CacheOptions, progress: Progress): Promise<void> {
  const work = join(directory, 'work');
  const root = join(work, 'root');
  mkdirSync(work);
  const versions = await readMachineVersions(work);
  const modules = await ensureZfsModule(versions, options);
  const key = join(directory, 'ssh-key');
  await runCommand('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', 'full-lab', '-f', key], { deadlineMs: keyMs });
  progress(`machine: installing Debian 13 with kernel ${versions.kernelAbi} into a folder`);
  const pinned = [`linux-image-${versions.kernelAbi}=${versions.kernelVersion}`, `zfsutils-linux=${versions.zfsVersion}`];
  const env = { MACHINE_MODULES: modules, MACHINE_KEY: `${key}.pub` };
  await bootstrapDebian13(root, work, { packages: [...packages, ...pinned], hooks: [`sh ${setup} "$1"`], env });
  copyFileSync(join(root, 'boot', `vmlinuz-${versions.kernelAbi}`), join(directory, 'vmlinuz'));
  progress('machine: making the disk image');
  await makeRootImage(root, join(directory, 'root.raw'));
  writeFileSync(join(directory, 'versions.json'), JSON.stringify(versions, null, 2));
  rmSync(work, { recursive: true });
  progress('machine: ready');
}

/** Straight from the folder: no mount, no loop device. */
async function makeRootImage(root: string, image: string): Promise<void> {
  const file = openSync(image, 'wx');
  ftruncateSync(file, rootBytes);
  closeSync(file);
  const extended = 'lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1';
  const args = [
    '-q',
    '-t',
    'ext4',
    '-L',
    'machine',
    '-m',
    '0',
    '-N',
    '131072',
    '-J',
    'size=32',
    '-E',
    extended,
    '-d',
    root,
    image,
  ];
  await runCommand('/sbin/mke2fs', args, { deadlineMs: fileSystemMs });
}
