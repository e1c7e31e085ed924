import { setPriority } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { describeTrouble } from '#adapters/backup-client/trouble.ts';
import { serveNbd } from '#adapters/nbd/nbd-server.ts';
import { limits } from '#base/limits.ts';
import { openLiveDisks } from '#programs/guest-backup/live-disks.ts';
import { createLiveFill } from '#programs/guest-backup/live-fill.ts';
import type { FromLive, LiveStart, ToLive } from '#programs/guest-backup/live-messages.ts';
import { openLiveSource } from '#programs/guest-backup/live-source.ts';
import type { TargetAccess } from '#programs/guest-backup/upload-messages.ts';

/** The thread that a guest's reads come to while its disks stream in. */
const { disks, arrival, socketPath, owner, limits: timing } = workerData as LiveStart;
const tell = (message: FromLive): void => parentPort?.postMessage(message);
let given = Promise.withResolvers<TargetAccess>();

parentPort?.on('message', (message: ToLive | { kind: 'end' }) => {
  if (message.kind === 'source') given.resolve(message.access);
});

async function run(): Promise<void> {
  // A guest waits for what is done here; it was started as one that nobody waits for.
  try {
    setPriority(timing.nice);
  } catch {
    // Only root may; it goes on as it is.
  }
  const live = await openLiveDisks(disks);
  const fill = createLiveFill(live, timing);
  await serveNbd(socketPath, new Map(live.disks.map((disk) => [disk.name, fill.readable(disk)])), owner);
  tell({ kind: 'serving' });
  const said = setInterval(() => tell({ kind: 'progress', progress: fill.progress() }), limits.backupProgressMs);
  const saved = saveOften(() => live.save());
  while (live.book.here < live.book.count) {
    const access = await given.promise;
    given = Promise.withResolvers();
    const cut = new AbortController();
    try {
      await fill.fillFrom(await openLiveSource(access, arrival, live.disks, arrival.disks, cut.signal), cut.signal);
    } catch (error) {
      tell({ kind: 'lost', error: describeTrouble(error) });
    } finally {
      cut.abort();
    }
  }
  clearInterval(said);
  await saved.end();
  await live.save();
  tell({ kind: 'progress', progress: fill.progress() });
  tell({ kind: 'complete' });
}

/** One after the other; `end` returns when none is under way any more. */
function saveOften(save: () => Promise<void>): { end: () => Promise<void> } {
  let isEnded = false;
  let underWay = Promise.resolve();
  const timer = setInterval(() => {
    underWay = underWay.then(async () => (isEnded ? undefined : await save()));
    underWay.catch(fail);
  }, timing.saveMs);
  return {
    async end() {
      isEnded = true;
      clearInterval(timer);
      await underWay;
    },
  };
}

function fail(error: unknown): void {
  tell({ kind: 'trouble', error: describeTrouble(error) });
}

run().catch(fail);
