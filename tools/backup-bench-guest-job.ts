import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';

/**
 * Backs a disk up as a node's agent does, with the installed programs: once for each line of its input, which is an order, answered by a line
 * when the backup is durable. The argument: the module that does it. The server's address and token come in the environment that the command
 * line reads.
 */
export type GuestOrder = {
  socketPath: string;
  disk: { name: string; sizeBytes: number };
  bitmap: string | null;
  atSeconds: number;
};
const module = process.argv[2] ?? '';
const core = join(dirname(module), '../../core/backup');
const { openUpload } = (await import(module)) as typeof import('#programs/guest-backup/upload-thread.ts');
const { parseRepository } = (await import(join(core, 'repository.js'))) as typeof import('#core/backup/repository.ts');
const { parseFingerprint } = (await import(join(core, 'crypt-key.js'))) as typeof import('#core/backup/crypt-key.ts');
const access = {
  repository: parseRepository(process.env['PBS_REPOSITORY'] ?? ''),
  fingerprint: parseFingerprint(process.env['PBS_FINGERPRINT'] ?? '', 'fingerprint'),
  namespace: [],
  secret: process.env['PBS_PASSWORD'] ?? '',
  key: null,
};

async function backUp({ socketPath, disk, bitmap, atSeconds }: GuestOrder): Promise<void> {
  const snapshot = { namespace: [], type: 'vm', id: '100', atSeconds } as const;
  await using upload = await openUpload({ access, snapshot: { ...snapshot, namespace: [] } }, new AbortController().signal);
  const guestBlob = new TextEncoder().encode('{}');
  const order = { socketPath, disks: [disk], bitmap, canRelease: false, guestBlob, notes: null, rateBytesPerSecond: null };
  await upload.send(order, () => {});
  await upload.finish();
}

process.stdout.write('ready\n');
for await (const line of createInterface({ input: process.stdin })) {
  await backUp(JSON.parse(line) as GuestOrder);
  process.stdout.write('done\n');
}
process.exit(0);
