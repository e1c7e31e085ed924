import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { Qmp, QmpEvent } from '#ports/qmp.ts';
import { bitmaps, nodes, type FleeceDisk } from '#programs/replication/fleece.ts';

/** Opens a tunnel to the target's export of a disk; the path is for one connection. */
export type OpenDisk = (disk: string) => Promise<{ path: string; close(): void }>;

/**
 * Lets QEMU copy what changed on each disk from the point to the target. Returns the bytes that were marked as changed. Raises AppError
 * unavailable when a job failed, moved nothing for `replicaStallMs`, or `signal` aborted; then the tunnels are closed and no job runs on.
 */
export async function pushChanges(
  qmp: Qmp,
  order: { disks: FleeceDisk[]; target: string; openDisk: OpenDisk },
  signal: AbortSignal,
): Promise<number> {
  const tunnels: { close(): void }[] = [];
  const finished = watchJobs(qmp, order.disks);
  try {
    for (const { name } of order.disks) {
      signal.throwIfAborted();
      const tunnel = await order.openDisk(name);
      tunnels.push(tunnel);
      await startPush(qmp, name, order.target, tunnel.path);
    }
    await finished.wait(signal);
    return await countPushed(qmp, order.disks);
  } finally {
    finished.stop();
    for (const tunnel of tunnels) tunnel.close();
  }
}

async function startPush(qmp: Qmp, disk: string, target: string, path: string): Promise<void> {
  const [point, far] = [nodes.point(disk), nodes.target(disk)];
  // The relay has reached the peer already; QEMU's main loop waits for the server's greeting at most this long.
  await qmp.execute('blockdev-add', {
    driver: 'nbd',
    'node-name': far,
    server: { type: 'unix', path },
    export: disk,
    'reconnect-delay': 0,
    'open-timeout': limits.nbdOpenMs / 1000,
  });
  await qmp.execute('block-dirty-bitmap-add', { node: point, name: bitmaps.push, disabled: true, granularity: 65_536 });
  await qmp.execute('block-dirty-bitmap-merge', {
    node: point,
    target: bitmaps.push,
    bitmaps: [{ node: nodes.active(disk), name: bitmaps.cycle(target) }],
  });
  await qmp.execute('blockdev-backup', {
    'job-id': bitmaps.push + disk,
    device: point,
    target: far,
    sync: 'bitmap',
    bitmap: bitmaps.push,
    'bitmap-mode': 'never',
  });
}

async function countPushed(qmp: Qmp, disks: FleeceDisk[]): Promise<number> {
  type Node = { 'node-name': string; 'dirty-bitmaps'?: { name?: string; count: number }[] };
  const found = await qmp.execute<Node[]>('query-named-block-nodes', { flat: true });
  const points = new Set(disks.map((disk) => nodes.point(disk.name)));
  return found
    .filter((node) => points.has(node['node-name']))
    .flatMap((node) => node['dirty-bitmaps'] ?? [])
    .reduce((sum, bitmap) => sum + bitmap.count, 0);
}

/** Waits for the end of every disk's job, and sees to it that they move. */
function watchJobs(qmp: Qmp, disks: FleeceDisk[]) {
  const left = new Set(disks.map((disk) => bitmaps.push + disk.name));
  const done = Promise.withResolvers<void>();
  done.promise.catch(() => {}); // a failure may come before anybody waits
  const stopListening = qmp.onEvent((event) => {
    const failure = takeEvent(event, left);
    if (failure !== null) done.reject(failure);
    else if (left.size === 0) done.resolve();
  });
  void qmp.closed.then(() => done.reject(new AppError('unavailable', 'push changes: the connection to QEMU is gone')));
  let timer: NodeJS.Timeout | null = null;
  const watchProgress = (): NodeJS.Timeout => {
    let [seen, sinceMs] = ['', performance.now()];
    return setInterval(() => {
      qmp
        .execute<{ id: string; 'current-progress': number }[]>('query-jobs')
        .then((jobs) => {
          const now = JSON.stringify(jobs.map((job) => [job.id, job['current-progress']]));
          if (now !== seen) [seen, sinceMs] = [now, performance.now()];
          else if (performance.now() - sinceMs > limits.replicaStallMs) {
            done.reject(
              new AppError('unavailable', `push changes: nothing moved for ${limits.replicaStallMs} ms; the target hangs`),
            );
          }
        })
        .catch((error: unknown) =>
          done.reject(new AppError('unavailable', 'push changes: QEMU does not answer', { cause: error })),
        );
    }, limits.replicaStallMs / 5);
  };
  return {
    async wait(signal: AbortSignal): Promise<void> {
      const stop = (): void => done.reject(new AppError('unavailable', 'push changes: given up', { cause: signal.reason }));
      signal.addEventListener('abort', stop, { once: true });
      timer = watchProgress();
      await done.promise.finally(() => signal.removeEventListener('abort', stop));
    },
    stop(): void {
      stopListening();
      if (timer !== null) clearInterval(timer);
    },
  };
}

function takeEvent(event: QmpEvent, left: Set<string>): AppError | null {
  const device = event.data['device'];
  if (typeof device !== 'string' || !left.has(device)) return null;
  if (event.event === 'BLOCK_JOB_CANCELLED') return new AppError('unavailable', `push changes: job ${device} was cancelled`);
  if (event.event !== 'BLOCK_JOB_COMPLETED') return null;
  // QEMU tells a failed job by an `error` member of the same event.
  if (event.data['error'] !== undefined)
    return new AppError('unavailable', `push changes: job ${device}: ${JSON.stringify(event.data['error'])}`);
  left.delete(device);
  return null;
}
