import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type CacheOptions, type Progress, ensureCached, sourceText } from './cache.ts';
import { compileStatic, packInitramfs } from './initramfs.ts';
import { type LabKernel, ensureKernel } from './kernel.ts';
import { baseAppend } from './kernel-append.ts';

const guests = join(import.meta.dirname, '../guests');
const sources = { init: join(guests, 'probe-init.sh'), probe: join(guests, 'probe.c'), button: join(guests, 'power-button.c') };

/** Disks of a probe guest: the sequence and the counter. Both start empty (all zero). */
export const probeDisks = [
  { name: 'disk0', sizeBytes: 64 << 20 },
  { name: 'disk1', sizeBytes: 1 << 20 },
] as const;

/** The probe guest: boots `kernel` with `initrd`, no root disk. */
export type ProbeImage = { kernel: string; initrd: string; release: string; memoryMb: number };

export type ProbeSettings = {
  /** Address with prefix length, e.g. `10.77.0.100/24`. */
  address: string;
  /** Collector as `ADDRESS:PORT`. */
  collector: string;
  /** Time between two writes; 100 by default. */
  intervalMs?: number;
  /** Blocks of 4 KiB written (each followed by its number) per interval; 1 by default. */
  blocksPerInterval?: number;
};

/** Builds the probe guest when it is not in the cache. */
export async function ensureProbe(options: CacheOptions = {}): Promise<ProbeImage> {
  const kernel = await ensureKernel(options);
  const inputs = [
    kernel.packageVersion,
    kernel.modules.join(),
    ...Object.values(sources).map(sourceText),
    sourceText(import.meta.filename),
  ];
  const build = (directory: string, progress: Progress) => buildProbe(directory, kernel, progress);
  const directory = await ensureCached({ kind: 'probe', inputs, build }, options);
  return { kernel: kernel.vmlinux, initrd: join(directory, 'initrd'), release: kernel.release, memoryMb: 128 };
}

/** The kernel command line of a probe guest; Holdfast appends the guest's number and generation itself. */
export function probeAppend(settings: ProbeSettings): string {
  const words = [baseAppend, `hf.ip=${settings.address}`, `hf.collector=${settings.collector}`];
  if (settings.intervalMs !== undefined) words.push(`hf.intervalms=${settings.intervalMs}`);
  if (settings.blocksPerInterval !== undefined) words.push(`hf.blocks=${settings.blocksPerInterval}`);
  return words.join(' ');
}

async function buildProbe(directory: string, kernel: LabKernel, progress: Progress): Promise<void> {
  progress('probe: compiling and packing');
  const work = join(directory, 'work');
  mkdirSync(work);
  await compileStatic(sources.probe, join(work, 'probe'));
  await compileStatic(sources.button, join(work, 'power-button'));
  const programs = { '/bin/probe': join(work, 'probe'), '/bin/power-button': join(work, 'power-button') };
  await packInitramfs(join(directory, 'initrd'), { kernel, init: sources.init, programs });
  rmSync(work, { recursive: true });
  progress('probe: ready');
}
