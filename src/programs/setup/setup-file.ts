import { randomUUID } from 'node:crypto';
import { chmodSync, closeSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { AppError } from '#base/error.ts';
import type { ClusterRole } from '#core/cluster/join-code.ts';

/** Where a server keeps what is its own. */
export const etcDirectory = '/etc/holdfast';

export const setupFiles = {
  setup: join(etcDirectory, 'setup.json'),
  nodeToml: join(etcDirectory, 'node.toml'),
  etcdEnv: join(etcDirectory, 'etcd.env'),
  guardEnv: join(etcDirectory, 'guard.env'),
  pki: join(etcDirectory, 'pki'),
  ca: join(etcDirectory, 'pki', 'ca.pem'),
  caKey: join(etcDirectory, 'pki', 'ca.key'),
  cert: join(etcDirectory, 'pki', 'node.pem'),
  key: join(etcDirectory, 'pki', 'node.key'),
  secrets: join(etcDirectory, 'secrets'),
} as const;

export const setupTls = { caFile: setupFiles.ca, certFile: setupFiles.cert, keyFile: setupFiles.key } as const;

/** What this machine is or is becoming. */
export type SetupRecord = {
  how: 'init' | 'join';
  role: ClusterRole;
  name: string;
  address: string;
  cluster: { id: string; name: string };
  /** Tells this machine from others that bear its name before or after it. */
  machine: string;
  profile: string;
  watchdog: string;
  /** Kernel module of the watchdog; null: built in, or not known. */
  watchdogDriver: string | null;
  accelerator: 'auto' | 'kvm' | 'tcg';
  cgroup: string;
  data: string;
  /** Dataset of a pool for guests' disks; null or left out: files below `data`. */
  dataset?: string | null;
  run: string;
  /** Other members' addresses for clients, as they were when this one joined. */
  stores: string[];
  state: 'begun' | 'done' | 'leaving';
};

/** null: this machine is nothing yet. Raises AppError invalid when the file cannot be understood. */
export function readSetup(): SetupRecord | null {
  let text: string;
  try {
    text = readFileSync(setupFiles.setup, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
  try {
    return JSON.parse(text) as SetupRecord;
  } catch (cause) {
    throw new AppError('invalid', `${setupFiles.setup} cannot be read; was it written by something else?`, { cause });
  }
}

export function writeSetup(record: SetupRecord): void {
  placeFile(setupFiles.setup, `${JSON.stringify(record, null, 2)}\n`, 0o644);
}

/** Replaces a file whole and durably; its folder is made (0700 for keys and secrets) when it is not there. */
export function placeFile(file: string, text: string, mode: number): void {
  const folder = dirname(file);
  mkdirSync(folder, { recursive: true, mode: folder === etcDirectory ? 0o755 : 0o700 });
  const temporary = `${file}.${randomUUID()}.new`;
  const fd = openSync(temporary, 'wx', mode);
  try {
    writeSync(fd, text);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  chmodSync(temporary, mode); // whatever the umask
  renameSync(temporary, file);
}
