import { chown, mkdir, open, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError, formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { Qmp, QmpCommand } from '#ports/qmp.ts';
import { nodes, push, replicaNames, type PointNames } from '#programs/replication/point-names.ts';

/** A disk of a running guest: its device id and node are named after it. */
export type FleeceDisk = { name: string; sizeBytes: number };

/** A point of a running guest, readable while the guest goes on. Old data that the guest overwrites is kept in local scratch files. */
export type Fleece = {
  /** Wall clock while the guest stood still. */
  readonly pointAtMs: number;
  readonly pausedMs: number;
  /** Aborts when the scratch files outgrow their limit; the point is of no use then. */
  readonly broken: AbortSignal;
  /** The guest writes straight to its disks again; scratch is gone. Call it whatever happened. */
  close(): Promise<void>;
  /** After close. The point arrived: forget what it contained. Otherwise: it is still owed, count it as changed. */
  settle(arrived: boolean): Promise<void>;
};

export type FleeceOrder = {
  disks: FleeceDisk[];
  names: PointNames;
  /** Keep old data only of what the tracking bitmap marks; false: of the whole disk. */
  changedOnly: (disk: string) => boolean;
  /** A write of the guest waits at most this long for old data to be kept; then the point is given up. */
  patienceSeconds: number;
  scratch: { directory: string; user: { uid: number; gid: number } | null; limitBytes: number };
  wallMs: () => number;
  log: (text: string) => void;
};

/** Makes sure that each disk has a bitmap for each target. Returns the targets for which one had to be made. */
export async function ensureBitmaps(qmp: Qmp, disks: FleeceDisk[], targets: string[]): Promise<string[]> {
  const made: string[] = [];
  for (const target of targets) if (await ensureTracking(qmp, disks, replicaNames(target))) made.push(target);
  return made;
}

/** Makes sure that each disk's writes are followed. True when that begins only now for one of them. */
export async function ensureTracking(qmp: Qmp, disks: FleeceDisk[], names: PointNames): Promise<boolean> {
  const present = await readBitmaps(qmp);
  const missing = disks.filter(({ name }) => present.get(nodes.active(name))?.has(names.tracking) !== true);
  const { tracking, granularity } = names;
  for (const { name } of missing)
    await qmp.execute('block-dirty-bitmap-add', { node: nodes.active(name), name: tracking, granularity });
  return missing.length > 0;
}

/** Node name to the bytes marked in each of its bitmaps. */
export async function readBitmaps(qmp: Qmp): Promise<Map<string, Map<string, number>>> {
  type Node = { 'node-name': string; 'dirty-bitmaps'?: { name?: string; count: number }[] };
  const found = await qmp.execute<Node[]>('query-named-block-nodes', { flat: true });
  return new Map(
    found.map((node) => [
      node['node-name'],
      new Map(
        (node['dirty-bitmaps'] ?? []).flatMap((bitmap) => (bitmap.name === undefined ? [] : [[bitmap.name, bitmap.count]])),
      ),
    ]),
  );
}

/**
 * Takes one point of all disks. The guest stands still from `stop` to `cont`, a few milliseconds: everything in between is written to
 * QEMU in one piece. No node that reaches another machine exists at that moment, because `stop` flushes every node there is.
 */
export async function openFleece(qmp: Qmp, order: FleeceOrder): Promise<Fleece> {
  await makeScratch(qmp, order);
  const { status } = await qmp.execute<{ status: string }>('query-status');
  const running = status === 'running';
  const times = { stopMs: 0, contMs: 0 };
  const stopListening = qmp.onEvent((event) => {
    if (event.event === 'STOP') times.stopMs = event.timestampMs;
    if (event.event === 'RESUME') times.contMs = event.timestampMs;
  });
  const commands = planPoint(order, new Set((await readBitmaps(qmp)).keys()));
  const pointAtMs = order.wallMs();
  try {
    const sent = qmp.pipeline(running ? [{ execute: 'stop' }, ...commands, { execute: 'cont' }] : commands);
    const guard = running ? watchPause(qmp, order.log) : () => {};
    const answers = await sent.finally(guard);
    const refused = answers.find((answer) => 'error' in answer);
    if (running && 'error' in (answers.at(-1) ?? {})) await qmp.execute('cont');
    if (refused !== undefined && 'error' in refused) throw new AppError('conflict', 'take a point', { cause: refused.error });
  } catch (error) {
    await closeFleece(qmp, order);
    await settleBitmaps(qmp, order, false);
    throw error;
  } finally {
    stopListening();
  }
  const scratch = watchScratch(order);
  return {
    pointAtMs,
    pausedMs: running && times.contMs >= times.stopMs ? times.contMs - times.stopMs : 0,
    broken: scratch.broken,
    async close() {
      scratch.stop();
      await closeFleece(qmp, order);
    },
    settle: (arrived) => settleBitmaps(qmp, order, arrived),
  };
}

/** What happens between `stop` and `cont`. `present`: the nodes there are. */
function planPoint({ disks, names, changedOnly, patienceSeconds }: FleeceOrder, present: ReadonlySet<string>): QmpCommand[] {
  const { tracking, cycle, granularity } = names;
  const actions = disks.flatMap(({ name }) => {
    const node = nodes.active(name);
    return [
      { type: 'block-dirty-bitmap-add', data: { node, name: cycle, disabled: true, granularity } },
      { type: 'block-dirty-bitmap-merge', data: { node, target: cycle, bitmaps: [tracking] } },
      { type: 'block-dirty-bitmap-clear', data: { node, name: tracking } },
    ];
  });
  const filters = disks.flatMap(({ name }): QmpCommand[] => {
    const bitmap = changedOnly(name) ? { bitmap: { node: nodes.active(name), name: cycle } } : {};
    const filter = {
      driver: 'copy-before-write',
      'node-name': names.filter(name),
      file: findBase(names, name, present),
      target: names.scratch(name),
      'on-cbw-error': 'break-snapshot', // the guest's write comes first; a full scratch costs us the point
      'cbw-timeout': patienceSeconds,
      ...bitmap,
    };
    // What a reader discards is not kept any longer.
    const access = { driver: 'snapshot-access', 'node-name': names.point(name), file: names.filter(name), discard: 'unmap' };
    return [
      { execute: 'blockdev-add', arguments: filter },
      { execute: 'qom-set', arguments: { path: `/machine/peripheral/${name}`, property: 'drive', value: names.filter(name) } },
      { execute: 'blockdev-add', arguments: access },
    ];
  });
  return [{ execute: 'transaction', arguments: { actions } }, ...filters];
}

/** What the guest's device writes to without our filter. */
function findBase(names: Pick<PointNames, 'below'>, disk: string, present: ReadonlySet<string>): string {
  const below = names.below(disk);
  return below !== null && present.has(below) ? below : nodes.active(disk);
}

/** Sends `cont` again when it was not confirmed in time; returns the function that ends the watch. */
function watchPause(qmp: Qmp, log: (text: string) => void): () => void {
  const timer = setInterval(() => {
    log(`cont not confirmed within ${limits.replicationPauseMs} ms; sent again`);
    qmp.execute('cont').catch((error: unknown) => log(`cont: ${formatErrorChain(error)}`));
  }, limits.replicationPauseMs);
  return () => clearInterval(timer);
}

async function makeScratch(qmp: Qmp, order: FleeceOrder): Promise<void> {
  const { directory, user } = order.scratch;
  await mkdir(directory, { recursive: true, mode: 0o711 });
  for (const { name, sizeBytes } of order.disks) {
    const path = scratchPath(order, name);
    await rm(path, { force: true });
    const file = await open(path, 'wx', 0o600);
    await file.truncate(sizeBytes);
    await file.close();
    if (user !== null) await chown(path, user.uid, user.gid);
    await qmp.execute('blockdev-add', {
      driver: 'raw',
      'node-name': order.names.scratch(name),
      discard: 'unmap',
      // Scratch dies with the cycle: nothing of it needs to survive a power cut.
      cache: { direct: false, 'no-flush': true },
      file: { driver: 'file', filename: path, aio: 'threads', discard: 'unmap', cache: { direct: false, 'no-flush': true } },
    });
  }
}

function scratchPath(order: FleeceParts, disk: string): string {
  return join(order.scratch.directory, `${disk}.scratch`);
}

function watchScratch(order: FleeceOrder): { broken: AbortSignal; stop: () => void } {
  const controller = new AbortController();
  const timer = setInterval(() => {
    void measureScratch(order).then((bytes) => {
      if (bytes <= order.scratch.limitBytes) return;
      controller.abort(
        new AppError('busy', `the guest overwrote ${bytes} bytes during the cycle, ${order.scratch.limitBytes} are allowed`),
      );
    });
  }, limits.scratchLookMs);
  return { broken: controller.signal, stop: () => clearInterval(timer) };
}

async function measureScratch(order: FleeceOrder): Promise<number> {
  let bytes = 0;
  for (const { name } of order.disks) {
    const found = await stat(scratchPath(order, name)).catch(() => null);
    bytes += (found?.blocks ?? 0) * 512;
  }
  return bytes;
}

/** What is needed to take a point away. */
export type FleeceParts = {
  disks: FleeceDisk[];
  names: Omit<PointNames, 'tracking' | 'cycle' | 'granularity'>;
  scratch: { directory: string };
};

/** Takes everything of a point out of QEMU again, whatever of it is there. Raises AppError when the guest's disk cannot be given back. */
export async function closeFleece(qmp: Qmp, order: FleeceParts): Promise<void> {
  const { names } = order;
  await endJobs(qmp, order.disks);
  const present = new Set((await readBitmaps(qmp)).keys());
  const drop = async (node: string): Promise<void> => {
    if (present.has(node)) await qmp.execute('blockdev-del', { 'node-name': node });
  };
  for (const { name } of order.disks) {
    await drop(nodes.target(name));
    await drop(names.point(name));
    if (present.has(names.filter(name))) {
      const value = findBase(names, name, present);
      await qmp.execute('qom-set', { path: `/machine/peripheral/${name}`, property: 'drive', value });
      await drop(names.filter(name));
    }
    await drop(names.scratch(name));
  }
  for (const { name } of order.disks) await rm(scratchPath(order, name), { force: true });
}

/** Cancels what still runs and waits for its end. The tunnels must be closed before, or a job could wait for a dead peer. */
async function endJobs(qmp: Qmp, disks: FleeceDisk[]): Promise<void> {
  const ours = new Set(disks.map((disk) => push + disk.name));
  const deadlineMs = performance.now() + limits.qmpCallMs;
  for (;;) {
    const jobs = (await qmp.execute<{ id: string }[]>('query-jobs')).filter((job) => ours.has(job.id));
    if (jobs.length === 0) return;
    if (performance.now() > deadlineMs)
      throw new AppError('timeout', `end the jobs ${jobs.map((job) => job.id).join(', ')}: they do not end`);
    for (const job of jobs) await qmp.execute('block-job-cancel', { device: job.id, force: true }).catch(() => {}); // it may have ended
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Ends the cycle's bitmap: dropped when its content arrived, otherwise given back to the tracking bitmap. */
export async function settleBitmaps(qmp: Qmp, order: Pick<FleeceOrder, 'disks' | 'names'>, arrived: boolean): Promise<void> {
  const present = await readBitmaps(qmp);
  const { cycle, tracking } = order.names;
  for (const { name } of order.disks) {
    const node = nodes.active(name);
    const held = present.get(node);
    if (held?.has(cycle) !== true) continue;
    if (!arrived && held.has(tracking))
      await qmp.execute('block-dirty-bitmap-merge', { node, target: tracking, bitmaps: [cycle] });
    await qmp.execute('block-dirty-bitmap-remove', { node, name: cycle });
  }
}
