import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { guestRunPaths } from '#core/guest/guest-paths.ts';
import { parseVmid } from '#base/ids.ts';
import type { ProcessIdentity } from './process-identity.ts';

/** What the agent must know to find a QEMU of its predecessor again: `meta.json` in the guest's run folder. */
export type GuestMeta = ProcessIdentity & { vmid: number; generation: number; nodeEpoch: number; startedAtMs: number };

/**
 * Makes the guest's run folder anew. QEMU (as `gid`) may add its sockets there, but by the sticky bit it can neither replace
 * nor remove what the agent wrote: an agent must not be made to kill a process of QEMU's choice.
 */
export function makeRunFolder(runDir: string, vmid: number, gid: number): void {
  const { folder } = guestRunPaths(runDir, vmid);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(`${runDir}/guests`, { recursive: true, mode: 0o755 });
  mkdirSync(folder, { mode: 0o700 });
  chownSync(folder, process.geteuid!(), gid);
  chmodSync(folder, 0o1770);
}

/** Writes `meta.json` and `qemu.pid`; whole or not at all. */
export function writeGuestMeta(runDir: string, meta: GuestMeta): void {
  const paths = guestRunPaths(runDir, meta.vmid);
  writeWhole(paths.pid, `${meta.pid}\n`);
  writeWhole(paths.meta, `${JSON.stringify(meta)}\n`);
}

function writeWhole(path: string, text: string): void {
  const fresh = `${path}.new`;
  rmSync(fresh, { force: true });
  writeFileSync(fresh, text, { flag: 'wx', mode: 0o644 });
  renameSync(fresh, path);
}

/** Every guest with a run folder; `meta` null where it is unreadable or not written by the agent's own user. */
export function listGuestMetas(runDir: string): { vmid: number; meta: GuestMeta | null }[] {
  let names: string[];
  try {
    names = readdirSync(`${runDir}/guests`);
  } catch {
    return [];
  }
  return names.flatMap((name) => (/^\d+$/.test(name) ? [readOne(runDir, parseVmid(name, 'run folder'))] : []));
}

function readOne(runDir: string, vmid: number): { vmid: number; meta: GuestMeta | null } {
  const path = guestRunPaths(runDir, vmid).meta;
  try {
    if (lstatSync(path).uid !== process.geteuid!()) return { vmid, meta: null };
    const meta = JSON.parse(readFileSync(path, 'utf8')) as GuestMeta;
    const numbers = [meta.pid, meta.startTicks, meta.generation, meta.nodeEpoch];
    return { vmid, meta: meta.vmid === vmid && numbers.every(Number.isInteger) ? meta : null };
  } catch {
    return { vmid, meta: null };
  }
}

export function removeRunFolder(runDir: string, vmid: number): void {
  rmSync(guestRunPaths(runDir, vmid).folder, { recursive: true, force: true });
}
