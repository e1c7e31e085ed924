import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { Qmp, QmpEvent } from '#ports/qmp.ts';
import type { FleeceDisk } from '#programs/replication/fleece.ts';
import { nodes, pointGone, push, replicaNames, replicaNodes } from '#programs/replication/point-names.ts';

/** Opens a tunnel to the target's export of a disk; the path is for one connection. */
export type OpenDisk = (disk: string) => Promise<{ path: string; close(): Promise<void> }>;

/**
 * Lets QEMU copy what changed on each disk from the point to the target, one disk after the other: the start and the end of a job wait for all
 * requests of any other job, in QEMU's main loop, and the guest with them. Returns the bytes that were marked as changed. Raises
 * AppError unavailable when a job failed, moved nothing for `replicaStallMs`, or `signal` aborted; its tunnel is closed then.
 */
export async function pushChanges(
  qmp: Qmp,
  order: { disks: FleeceDisk[]; target: string; openDisk: OpenDisk; rateBytesPerSecond: number | null },
  signal: AbortSignal,
): Promise<number> {
  for (const { name } of order.disks) {
    signal.throwIfAborted();
    await pushDisk(qmp, name, order, signal);
  }
  return await countPushed(qmp, order.disks);
}

async function pushDisk(
  qmp: Qmp,
  disk: string,
  order: { target: string; openDisk: OpenDisk; rateBytesPerSecond: number | null },
  signal: AbortSignal,
): Promise<void> {
  const job = watchJob(qmp, push + disk);
  const tunnel = await order.openDisk(disk);
  const stopPulse = watchMainLoop(qmp, () => void tunnel.close());
  try {
    await openTarget(qmp, disk, tunnel.path);
    await startPush(qmp, disk, order);
    await job.wait(signal);
  } finally {
    job.stop();
    stopPulse();
    // Before the node is let go of: closing it would flush the far disk, and the guest would wait for that too. The receiver flushes.
    await tunnel.close();
  }
}

/**
 * A request to a far disk that hangs can hold up QEMU's main loop, and with it the guest, in the middle of any command. Nothing but the end of
 * the connection frees it, so the tunnels are cut when QEMU does not answer a plain question in time. Looks are counted, not time: when this
 * process itself stood still, the answer that came meanwhile is read before the next look.
 */
function watchMainLoop(qmp: Qmp, cut: () => void): () => void {
  const looks = 3;
  let unanswered = 0;
  const timer = setInterval(() => {
    if (unanswered > 0) {
      unanswered += 1;
      if (unanswered > looks) cut();
      return;
    }
    unanswered = 1;
    qmp.execute('query-status').then(
      () => (unanswered = 0),
      () => cut(),
    );
  }, limits.qemuPulseMs / looks);
  return () => clearInterval(timer);
}

async function openTarget(qmp: Qmp, disk: string, path: string): Promise<void> {
  // The relay has reached the peer already; QEMU's main loop waits for the server's greeting at most this long.
  await qmp.execute('blockdev-add', {
    driver: 'nbd',
    'node-name': nodes.target(disk),
    server: { type: 'unix', path },
    export: disk,
    'reconnect-delay': 0,
    'open-timeout': limits.nbdOpenMs / 1000,
  });
}

async function startPush(qmp: Qmp, disk: string, order: { target: string; rateBytesPerSecond: number | null }): Promise<void> {
  const [point, far] = [replicaNodes.point(disk), nodes.target(disk)];
  await qmp.execute('block-dirty-bitmap-add', { node: point, name: push, disabled: true, granularity: 65_536 });
  await qmp.execute('block-dirty-bitmap-merge', {
    node: point,
    target: push,
    bitmaps: [{ node: nodes.active(disk), name: replicaNames(order.target).cycle }],
  });
  await qmp.execute('blockdev-backup', {
    'job-id': push + disk,
    device: point,
    target: far,
    sync: 'bitmap',
    bitmap: push,
    'bitmap-mode': 'never',
    ...(order.rateBytesPerSecond === null ? {} : { speed: order.rateBytesPerSecond }),
  });
}

async function countPushed(qmp: Qmp, disks: FleeceDisk[]): Promise<number> {
  type Node = { 'node-name': string; 'dirty-bitmaps'?: { name?: string; count: number }[] };
  const found = await qmp.execute<Node[]>('query-named-block-nodes', { flat: true });
  const points = new Set(disks.map((disk) => replicaNodes.point(disk.name)));
  return found
    .filter((node) => points.has(node['node-name']))
    .flatMap((node) => node['dirty-bitmaps'] ?? [])
    .reduce((sum, bitmap) => sum + bitmap.count, 0);
}

/** Waits for the end of a job, and sees to it that it moves. */
function watchJob(qmp: Qmp, id: string) {
  const done = Promise.withResolvers<void>();
  done.promise.catch(() => {}); // a failure may come before anybody waits
  const stopListening = qmp.onEvent((event) => {
    const outcome = takeEvent(event, id);
    if (outcome === 'completed') done.resolve();
    else if (outcome !== null) done.reject(outcome);
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

/** How a job ends that reads on from a point which QEMU has given up (`on-cbw-error`). */
const refusedRead = 'Permission denied';

function takeEvent(event: QmpEvent, id: string): AppError | 'completed' | null {
  if (event.data['device'] !== id) return null;
  if (event.event === 'BLOCK_JOB_CANCELLED') return new AppError('unavailable', `push changes: job ${id} was cancelled`);
  if (event.event !== 'BLOCK_JOB_COMPLETED') return null;
  // QEMU tells a failed job by an `error` member of the same event.
  const { error } = event.data;
  if (error === undefined) return 'completed';
  const told = error === refusedRead ? `${pointGone} (${refusedRead})` : JSON.stringify(error);
  return new AppError('unavailable', `push changes: job ${id}: ${told}`);
}
