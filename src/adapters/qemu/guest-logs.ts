import { chownSync, closeSync, mkdirSync, openSync, readSync, renameSync, statSync } from 'node:fs';
import { limits } from '#base/limits.ts';
import { guestDataPaths } from '#core/guest/guest-paths.ts';
import type { QemuUser } from './unprivileged.ts';

/**
 * Makes the guest's data folder and its two logs ready for a start: turned over when long, the serial log owned by QEMU's user.
 * The folder stays the agent's own, so that QEMU cannot put another file in the place of a log. Returns where QEMU's log ends now.
 */
export function prepareLogs(dataDir: string, vmid: number, user: QemuUser): { qemuLogBytes: number } {
  const paths = guestDataPaths(dataDir, vmid);
  mkdirSync(paths.folder, { recursive: true, mode: 0o755 });
  for (const path of [paths.serialLog, paths.qemuLog]) {
    if (sizeOf(path) > limits.serialLogBytes) renameSync(path, `${path}.1`);
  }
  closeSync(openSync(paths.serialLog, 'a', 0o640));
  chownSync(paths.serialLog, user.uid, user.gid);
  return { qemuLogBytes: sizeOf(paths.qemuLog) };
}

/** What QEMU wrote to its log from a place on, as one line, the last words if it is long. */
export function readQemuWords(dataDir: string, vmid: number, fromBytes: number): string {
  const path = guestDataPaths(dataDir, vmid).qemuLog;
  const sizeBytes = sizeOf(path);
  // Four bytes a character at most.
  const startBytes = Math.max(fromBytes, sizeBytes - limits.qemuWordsChars * 4);
  if (sizeBytes <= startBytes) return '';
  const buffer = Buffer.alloc(sizeBytes - startBytes);
  const file = openSync(path, 'r');
  try {
    readSync(file, buffer, 0, buffer.length, startBytes);
  } finally {
    closeSync(file);
  }
  return buffer.toString('utf8').trim().replaceAll(/\s+/g, ' ').slice(-limits.qemuWordsChars);
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}
