import { execFileSync } from 'node:child_process';
import { closeSync, ftruncateSync, mkdirSync, openSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { guestRunPaths } from '#core/guest/guest-paths.ts';
import { ensureCached, sourceText } from '#lab/images/cache.ts';
import { unpackPackage } from '#lab/images/debian-package.ts';
import { packInitramfs } from '#lab/images/initramfs.ts';
import { baseAppend } from '#lab/images/kernel-append.ts';
import { ensureKernel } from '#lab/images/kernel.ts';
import type { DiskChain } from '#ports/hypervisor.ts';
import { type BareGuest, startBareGuest } from './bare-guest.ts';

const agentPackage = 'qemu-guest-agent';
const init = join(import.meta.dirname, 'agent-init.sh');

export const agentDisk = { name: 'disk0', sizeBytes: 16 << 20 } as const;

/** An empty ext4 file system. */
export function writeAgentDisk(path: string): void {
  const file = openSync(path, 'wx');
  ftruncateSync(file, agentDisk.sizeBytes);
  closeSync(file);
  execFileSync('/sbin/mke2fs', ['-q', '-t', 'ext4', path]);
}

/** True when the image's journal holds what its file system lacks, as after a power cut; a file system at rest has written everything. */
export function needsJournal(image: string): boolean {
  const head = execFileSync('/sbin/dumpe2fs', ['-h', image], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  return /^Filesystem features:.*needs_recovery/m.test(head);
}

/** A small Linux with QEMU's own guest agent in it, which writes numbers into files. `written`: the newest number that it has told. */
export async function startAgentGuest(options: {
  vmid: number;
  generation: number;
  run: string;
  disks: DiskChain[];
}): Promise<BareGuest & { written(): number }> {
  const kernel = await ensureKernel();
  const inputs = [kernel.packageVersion, kernel.modules.join(), agentPackage, sourceText(init), sourceText(import.meta.filename)];
  const folder = await ensureCached({ kind: 'agent-guest', inputs, build: (directory) => build(directory, kernel) });
  const { guestAgent } = guestRunPaths(options.run, options.vmid);
  const guest = await startBareGuest({
    ...options,
    kernel: kernel.vmlinux,
    initrd: join(folder, 'initrd'),
    append: baseAppend,
    memoryMb: 128,
    more: ['-chardev', `socket,id=qga0,path=${guestAgent},server=on,wait=off`, '-device', 'isa-serial,chardev=qga0'],
  });
  const written = (): number =>
    Number(
      readFileSync(guest.serialLog, 'utf8')
        .match(/wrote \d+(?=\r?\n)/g)
        ?.at(-1)
        ?.slice(6) ?? 0,
    );
  return { ...guest, written };
}

async function build(directory: string, kernel: Awaited<ReturnType<typeof ensureKernel>>): Promise<void> {
  const work = join(directory, 'work');
  mkdirSync(work);
  const { root } = await unpackPackage(agentPackage, work);
  const agent = join(root, 'usr/sbin/qemu-ga');
  // Its libraries are those that QEMU itself needs on this machine.
  const lines = execFileSync('ldd', [agent], { encoding: 'utf8' }).split('\n');
  const libraries = lines.flatMap((line) => /(?:=>\s+)?(\/\S+) \(0x/.exec(line)?.[1] ?? []);
  const programs = { '/bin/qemu-ga': agent, ...Object.fromEntries(libraries.map((path) => [path, path])) };
  await packInitramfs(join(directory, 'initrd'), { kernel, init, programs });
  rmSync(work, { recursive: true });
}
