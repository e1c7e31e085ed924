import { closeSync, ftruncateSync, mkdirSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { writeDebianSources } from './apt-sources.ts';
import { type CacheOptions, type Progress, ensureCached, sourceText } from './cache.ts';
import { runCommand } from './command.ts';
import { compileStatic, packInitramfs } from './initramfs.ts';
import { baseAppend } from './kernel-append.ts';
import { type LabKernel, ensureKernel } from './kernel.ts';

const guests = join(import.meta.dirname, '../guests');
const sources = {
  initrd: join(guests, 'ehr-db-initrd.sh'),
  init: join(guests, 'ehr-db-init.sh'),
  power: join(guests, 'ehr-db-power.sh'),
  early: join(guests, 'ehr-db-early.sh'),
  setup: join(guests, 'ehr-db-setup.sh'),
  button: join(guests, 'power-button.c'),
};

const packages = ['postgresql-15'];
/** Left out of the root: nobody reads manuals there, and the just-in-time compiler is switched off. */
const leftOut = [
  '/usr/share/doc/*',
  '/usr/share/man/*',
  '/usr/share/locale/*',
  '/usr/share/i18n/*',
  '/usr/lib/*/libLLVM*',
  '/usr/lib/postgresql/*/lib/bitcode/*',
];
const rootBytes = 2 * 1024 ** 3;
const rootBuildMs = 600_000;
const fileSystemMs = 120_000;

/** The database guest: boots `kernel` with `initrd`; its root and only disk is a copy of `rootImage` (raw ext4, sparse). */
export type EhrDbImage = {
  kernel: string;
  initrd: string;
  rootImage: string;
  rootBytes: number;
  release: string;
  memoryMb: number;
};

/** How a client reaches the database in the guest: no password, from the lab's network only. */
export const ehrDatabase = { port: 5432, user: 'ehr', database: 'ehr', table: 'visit' } as const;

/** Builds the database guest when it is not in the cache. */
export async function ensureEhrDb(options: CacheOptions = {}): Promise<EhrDbImage> {
  const kernel = await ensureKernel(options);
  const inputs = [
    kernel.packageVersion,
    kernel.modules.join(),
    ...Object.values(sources).map(sourceText),
    sourceText(import.meta.filename),
  ];
  const build = (directory: string, progress: Progress) => buildEhrDb(directory, kernel, progress);
  const directory = await ensureCached({ kind: 'ehr-db', inputs, build }, options);
  const files = { initrd: join(directory, 'initrd'), rootImage: join(directory, 'root.raw') };
  return { kernel: kernel.vmlinux, ...files, rootBytes, release: kernel.release, memoryMb: 256 };
}

/** The kernel command line of a database guest; `address` with prefix length, e.g. `10.77.0.101/24`. */
export function ehrDbAppend(settings: { address: string }): string {
  return `${baseAppend} hf.ip=${settings.address}`;
}

async function buildEhrDb(directory: string, kernel: LabKernel, progress: Progress): Promise<void> {
  const work = join(directory, 'work');
  mkdirSync(work);
  const button = join(work, 'power-button');
  await compileStatic(sources.button, button);
  await packInitramfs(join(directory, 'initrd'), { kernel, init: sources.initrd, programs: {} });
  progress('ehr-db: installing Debian and PostgreSQL into a folder');
  const root = join(work, 'root');
  await buildRoot(root, work, button);
  progress('ehr-db: making the disk image');
  await buildFileSystem(root, join(directory, 'root.raw'));
  rmSync(work, { recursive: true });
  progress('ehr-db: ready');
}

async function buildRoot(root: string, work: string, button: string): Promise<void> {
  const { suite, files } = writeDebianSources(work);
  const options = [
    '--mode=root',
    '--format=directory',
    '--variant=essential',
    '--aptopt=Apt::Install-Recommends "false"',
    ...leftOut.map((path) => `--dpkgopt=path-exclude=${path}`),
    `--include=${packages.join(',')}`,
    `--essential-hook=sh ${sources.early} "$1"`,
    `--customize-hook=sh ${sources.setup} "$1"`,
  ];
  const env = { EHR_GUESTS: guests, EHR_BUTTON: button, DEBIAN_FRONTEND: 'noninteractive' };
  await runCommand('mmdebstrap', [...options, suite, root, ...files], { deadlineMs: rootBuildMs, env });
}

/** One raw ext4 disk made straight from the folder: no mount, no loop device. What mke2fs would write later, it writes now. */
async function buildFileSystem(root: string, image: string): Promise<void> {
  const file = openSync(image, 'wx');
  ftruncateSync(file, rootBytes);
  closeSync(file);
  const extended = 'lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1';
  const args = ['-q', '-t', 'ext4', '-L', 'ehr-db', '-m', '0', '-N', '65536', '-J', 'size=16', '-E', extended, '-d', root, image];
  await runCommand('/sbin/mke2fs', args, { deadlineMs: fileSystemMs });
}
