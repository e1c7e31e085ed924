import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createDirStorage, type DirStorage } from '#adapters/dir/dir-storage.ts';
import type { Incoming } from '#adapters/dir/incoming.ts';
import { connectNbd, flushExport } from '#adapters/nbd/nbd-client.ts';
import { connectQmp } from '#adapters/qmp/qmp-client.ts';
import type { ReplicaPoint } from '#core/guest/guest-record.ts';

/** Images belong to this user in the tests, as on a server: nobody's, so that nothing works only because we are root. */
export const imageUser = { uid: 64_055, gid: 64_055 };

/** A folder that is gone when the test's scope ends. */
export function makeWorkDirectory(name: string): { path: string; [Symbol.dispose](): void } {
  const path = mkdtempSync(join(tmpdir(), `hf-${name}-`));
  mkdirSync(path, { recursive: true });
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** One node's storage under `directory` (made passable for the image user), recovered and ready. */
export async function openStorage(directory: string, logged: string[] = []): Promise<DirStorage> {
  mkdirSync(join(directory, 'run'), { recursive: true, mode: 0o711 });
  const storage = createDirStorage({
    root: join(directory, 'dir'),
    run: join(directory, 'run/replica'),
    user: imageUser,
    connectQmp,
    flushExport,
    log: (text) => void logged.push(text),
  });
  await storage.recover();
  return storage;
}

/** Writes `content` at `offset` of each disk of a point on its way in. */
export async function fillIncoming(incoming: Incoming, content: Uint8Array, offset: number): Promise<void> {
  for (const { name } of incoming.request.disks) {
    const nbd = await connectNbd(incoming.nbdSocket, name, { deadlineMs: 2_000 });
    await nbd.write(offset, content);
    nbd.close();
  }
}

/** What goes with a point when it is sealed. */
export function aboutPoint(pointAtMs: number) {
  return {
    source: 'n1',
    pointAtMs,
    appliedAtMs: pointAtMs + 1,
    configSha256: 'c0',
    lastCycle: { kind: 'delta' as const, bytes: 0, tookMs: 0, pausedMs: 0 },
  };
}

/** Receives one whole point that holds `content` at `offset` of every disk. */
export async function receivePoint(
  storage: DirStorage,
  vmid: number,
  point: ReplicaPoint,
  change: { disks: { name: string; sizeBytes: number }[]; content: Uint8Array; offset: number },
): Promise<void> {
  const incoming = await storage.beginIncoming({ vmid, peer: 'n1', point, disks: change.disks });
  await fillIncoming(incoming, change.content, change.offset);
  await incoming.seal(aboutPoint(point.seq * 1000));
}
