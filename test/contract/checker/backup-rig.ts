import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { createClock } from '#adapters/clock/boot-clock.ts';
import { parseFingerprint } from '#core/backup/crypt-key.ts';
import type { GuestConfig } from '#core/guest/guest-record.ts';
import { checkProbeDisks, type ProbeVerdict } from '#lab/images/probe-disks.ts';
import { probeDisks } from '#lab/images/probe.ts';
import { createGuestRests } from '#programs/guest-rest.ts';
import { createGuestBackups, type GuestBackupOrder, type GuestBackups } from '#programs/guest-backup/guest-backup.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import type { BackupPlace } from '../backup-command-parts.ts';
import { imageUser } from './dir-rig.ts';
import type { Rig } from './node-rig.ts';

export const probeGuestConfig: GuestConfig = {
  cores: 1,
  memoryMb: 64,
  disks: [...probeDisks],
  nics: [],
  boot: { kernel: 'probe-vmlinux', initrd: null, append: '' },
};

/** Backups of a guest on a node of the rig. */
export function backupsOf(rig: Rig, name: string, guest: RunningGuest, scratchLimitBytes = 1 << 30): GuestBackups {
  const node = rig.node(name);
  return createGuestBackups(guest, {
    node: name,
    run: node.run,
    scratch: join(node.directory, 'scratch'),
    scratchLimitBytes,
    user: imageUser,
    points: node.points,
    rests: createGuestRests({ run: node.run, log: (text) => node.logged.push(text) }),
    clock: createClock(),
    log: (text) => node.logged.push(text),
  });
}

export function backupOrder(
  place: Pick<BackupPlace, 'port' | 'fingerprint'>,
  change: Partial<GuestBackupOrder> = {},
): GuestBackupOrder {
  return {
    target: 'vault',
    access: {
      repository: { user: 'u@pbs!t', host: '127.0.0.1', port: place.port, store: 'store' },
      fingerprint: parseFingerprint(place.fingerprint, 'fingerprint'),
      namespace: [],
      secret: 'geheim',
      key: null,
    },
    guest: { name: 'probe', config: probeGuestConfig },
    freeze: false,
    notes: null,
    rateBytesPerSecond: null,
    confirm: async () => {},
    onProgress: () => {},
    ...change,
  };
}

let restores = 0;

/** Restores the newest backup of the guest by the command line and looks whether its disks are one whole point. */
export async function checkBackup(place: BackupPlace, vmid: number, options: string[] = []): Promise<ProbeVerdict> {
  restores += 1;
  const out = join(place.folder, `out-${restores}`);
  mkdirSync(out);
  for (const { name } of probeDisks) {
    const done = await place.run(['restore', `vm/${vmid}`, `drive-${name}.img`, join(out, name), ...options]);
    if (done.code !== 0) throw new Error(`restore: ${done.err}`);
  }
  const [disk0 = '', disk1 = ''] = probeDisks.map(({ name }) => join(out, name));
  const verdict = checkProbeDisks(disk0, disk1);
  rmSync(out, { recursive: true });
  return verdict;
}

/** The newest backup's own description of the guest. */
export async function readGuestBlob(place: BackupPlace, vmid: number): Promise<Record<string, unknown>> {
  const file = join(place.folder, 'guest.json');
  rmSync(file, { force: true });
  const done = await place.run(['restore', `vm/${vmid}`, 'holdfast-guest.json.blob', file]);
  if (done.code !== 0) throw new Error(`restore: ${done.err}`);
  return JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
}
