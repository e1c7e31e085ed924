import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createClock } from '#adapters/clock/boot-clock.ts';
import { connectQmp } from '#adapters/qmp/qmp-client.ts';
import { guestRunPaths } from '#core/guest/guest-paths.ts';
import type { GuestConfig } from '#core/guest/guest-record.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import { createGuestBackups } from '#programs/guest-backup/guest-backup.ts';
import { createGuestRests } from '#programs/guest-rest.ts';
import { createPointLock } from '#programs/replication/point-lock.ts';
import { backupOrder } from './backup-rig.ts';
import { imageUser } from './dir-rig.ts';

/**
 * One backup by a process of its own, to be killed: `backup-process.ts FILE`. It prints each step as a line, and `reading` once something has been read.
 */
export type BackupProcessOrder = {
  directory: string;
  run: string;
  guest: { vmid: number; generation: number; pid: number; name: string; config: GuestConfig };
  place: { port: number; fingerprint: string };
  rateBytesPerSecond: number | null;
};

const order = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8')) as BackupProcessOrder;
const { directory, run, place, rateBytesPerSecond } = order;
const { vmid, generation, pid, name, config } = order.guest;
const say = (text: string): void => void process.stdout.write(`${text}\n`);
const qmp = await connectQmp(guestRunPaths(run, vmid).qmp, { deadlineMs: 10_000 });
const guest = { vmid, generation, pid, qmp, exited: new Promise<never>(() => {}) } as unknown as RunningGuest;
const backups = createGuestBackups(guest, {
  node: 'n1',
  run,
  scratch: join(directory, 'scratch'),
  scratchLimitBytes: 1 << 30,
  user: imageUser,
  points: createPointLock(),
  rests: createGuestRests({ run, log: say }),
  clock: createClock(),
  log: say,
});
await backups.make(
  backupOrder(place, {
    guest: { name, config },
    freeze: true,
    rateBytesPerSecond,
    onProgress: (text, progress) => say((progress?.doneBytes ?? 0) > 0 ? 'reading' : text),
  }),
  new AbortController().signal,
);
say('complete');
