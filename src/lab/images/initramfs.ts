import { chmodSync, copyFileSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { runCommand } from './command.ts';
import type { LabKernel } from './kernel.ts';

const compileMs = 60_000;
const packMs = 60_000;

/** Compiles one C program of ours, static and stripped, so that it runs in a guest without libraries. */
export async function compileStatic(source: string, target: string): Promise<void> {
  await runCommand('gcc', ['-O2', '-Wall', '-Wextra', '-Werror', '-static', '-s', '-pthread', '-o', target, source], {
    deadlineMs: compileMs,
  });
}

/**
 * Packs an initramfs: busybox, the kernel's drivers with their load order in /modules/order, `init` as /init, and `programs` (host path
 * by guest path).
 */
export async function packInitramfs(
  target: string,
  parts: { kernel: LabKernel; init: string; programs: Record<string, string> },
): Promise<void> {
  const tree = `${target}.tree`;
  for (const folder of ['bin', 'dev', 'proc', 'sys', 'modules', 'newroot']) mkdirSync(join(tree, folder), { recursive: true });
  copyExecutable('/bin/busybox', join(tree, 'bin/busybox'));
  copyExecutable(parts.init, join(tree, 'init'));
  for (const [path, source] of Object.entries(parts.programs)) {
    mkdirSync(dirname(join(tree, path)), { recursive: true });
    copyExecutable(source, join(tree, path));
  }
  for (const module of parts.kernel.modules) copyFileSync(module, join(tree, 'modules', basename(module)));
  writeFileSync(join(tree, 'modules/order'), parts.kernel.modules.map((module) => `${basename(module)}\n`).join(''));
  const names = readdirSync(tree, { recursive: true, encoding: 'utf8' }).toSorted();
  // Not compressed: the guest would have to unpack it on an emulated CPU.
  const archive = await runCommand('busybox', ['cpio', '-o', '-H', 'newc', '-R', '0:0'], {
    deadlineMs: packMs,
    cwd: tree,
    input: `${names.join('\n')}\n`,
  });
  writeFileSync(target, archive);
  rmSync(tree, { recursive: true });
}

function copyExecutable(source: string, target: string): void {
  copyFileSync(source, target);
  chmodSync(target, 0o755);
}
