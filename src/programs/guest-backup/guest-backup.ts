import { join } from 'node:path';
import { AppError, formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { formatHex } from '#core/backup/bytes.ts';
import { formatGroup, formatSnapshot, type SnapshotId } from '#core/backup/names.ts';
import { guestRunPaths } from '#core/guest/guest-paths.ts';
import type { GuestConfig } from '#core/guest/guest-record.ts';
import { formatGuestBlob } from '#core/guest-backup/guest-blob.ts';
import { planBackup, type BackedUp, type BackupBasis } from '#core/guest-backup/plan-backup.ts';
import type { BackupFigures, BackupKind } from '#core/guest-backup/records.ts';
import type { Clock } from '#ports/clock.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import { readBackupBases, writeBackupBases } from '#programs/guest-backup/basis-file.ts';
import type { TargetAccess, UploadProgress } from '#programs/guest-backup/upload-messages.ts';
import { openUpload, type Upload } from '#programs/guest-backup/upload-thread.ts';
import type { GuestRests, RestOutcome } from '#programs/guest-rest.ts';
import {
  closeFleece,
  ensureTracking,
  openFleece,
  readBitmaps,
  settleBitmaps,
  type Fleece,
  type FleeceDisk,
} from '#programs/replication/fleece.ts';
import { closeExports, exportSocket, openExport } from '#programs/replication/point-exports.ts';
import type { PointLock } from '#programs/replication/point-lock.ts';
import { backupNames, backupNodes, nodes, replicaNodes } from '#programs/replication/point-names.ts';

export type GuestBackupDeps = {
  node: string;
  run: string;
  /** Where old data is kept while the target takes its time: a folder on the disk that holds the guests. */
  scratch: string;
  scratchLimitBytes: number;
  user: { uid: number; gid: number } | null;
  points: PointLock;
  /** Shared with replication as well. */
  rests: GuestRests;
  clock: Clock;
  log: (text: string) => void;
};

export type GuestBackupOrder = {
  /** The target's id; its bitmap is named after it. */
  target: string;
  access: TargetAccess;
  guest: { name: string; config: GuestConfig };
  freeze: boolean;
  notes: string | null;
  rateBytesPerSecond: number | null;
  /** Raises AppError when this node may no longer speak for the guest. Asked last before the backup becomes visible. */
  confirm: () => Promise<void>;
  onProgress: (text: string, progress: UploadProgress | null) => void;
};

export type GuestBackupResult = { snapshot: SnapshotId; pointAtMs: number; figures: BackupFigures };

/** The bitmap on a point that tells its reader what changed. */
const changes = 'changes';
const exportPrefix = 'bak-';

/** Backups of one guest under its present QEMU process. One at a time. */
export type GuestBackups = {
  /** Takes over what a backup of an earlier agent may have left: filters, bitmaps, file systems at rest, stopped CPUs. */
  recover(): Promise<void>;
  /**
   * One backup. Raises AppError; then the guest goes on and the next one builds on the last that succeeded.
   *
   *   open a session ─► plan ─► at rest ─► point ─► go on ─► a thread reads and sends ─► point away ─► confirm ─► finish ─► settle
   */
  make(order: GuestBackupOrder, signal: AbortSignal): Promise<GuestBackupResult>;
};

export function createGuestBackups(guest: RunningGuest, deps: GuestBackupDeps): GuestBackups {
  const { vmid, generation, qmp } = guest;
  const directory = guestRunPaths(deps.run, vmid).folder;
  const socketPath = exportSocket(directory);
  const scratch = {
    directory: join(deps.scratch, `${vmid}-backup`),
    user: deps.user,
    limitBytes: deps.scratchLimitBytes,
  };

  /** As QEMU has them open, whatever kind of storage they lie on. */
  async function readDisks(): Promise<FleeceDisk[]> {
    type Node = { 'node-name': string; image: { 'virtual-size': number } };
    const prefix = nodes.active('');
    const found = await qmp.execute<Node[]>('query-named-block-nodes', { flat: false });
    return found
      .filter((node) => node['node-name'].startsWith(prefix))
      .map((node) => ({ name: node['node-name'].slice(prefix.length), sizeBytes: node.image['virtual-size'] }))
      .toSorted((one, other) => one.name.localeCompare(other.name));
  }

  async function note(target: string, change: (basis: BackupBasis | null) => BackupBasis | null): Promise<void> {
    const bases = await readBackupBases(directory, guest.pid);
    const next = change(bases.get(target) ?? null);
    if (next === null) bases.delete(target);
    else bases.set(target, next);
    await writeBackupBases(directory, guest.pid, bases);
  }

  /** Gives the guest its disks back, whatever of a backup's point is there. */
  async function clear(disks: FleeceDisk[]): Promise<void> {
    await closeExports(qmp, exportPrefix);
    await closeFleece(qmp, { disks, names: backupNodes, scratch });
  }

  /** Gives back what bitmaps of points hold that are gone. */
  async function settleLeft(disks: FleeceDisk[]): Promise<void> {
    const bitmaps = [...(await readBitmaps(qmp)).values()].flatMap((held) => [...held.keys()]);
    const { cycle } = backupNames('');
    const targets = new Set(bitmaps.filter((name) => name.startsWith(cycle)).map((name) => name.slice(cycle.length)));
    for (const target of targets) await settleBitmaps(qmp, { disks, names: backupNames(target) }, false);
  }

  async function takePoint(order: GuestBackupOrder, disks: FleeceDisk[], kind: BackupKind) {
    const names = backupNames(order.target);
    const open = (): Promise<Fleece> =>
      openFleece(qmp, {
        disks,
        names,
        changedOnly: () => kind === 'delta',
        patienceSeconds: limits.backupPatienceMs / 1_000,
        scratch,
        wallMs: () => deps.clock.wallMs(),
        log: deps.log,
      });
    const rest = order.freeze
      ? await deps.rests.hold(vmid, open)
      : { result: await open(), isRested: false, because: 'not asked for' };
    const fleece = rest.result;
    try {
      for (const { name } of disks) await showPoint(names.cycle, name, kind);
      return { fleece, rest };
    } catch (error) {
      await clear(disks);
      await fleece.close();
      await fleece.settle(false);
      throw error;
    }
  }

  async function showPoint(cycle: string, disk: string, kind: BackupKind): Promise<void> {
    const node = backupNodes.point(disk);
    const { granularity } = backupNames('');
    if (kind === 'delta') {
      await qmp.execute('block-dirty-bitmap-add', { node, name: changes, disabled: true, granularity });
      const bitmaps = [{ node: nodes.active(disk), name: cycle }];
      await qmp.execute('block-dirty-bitmap-merge', { node, target: changes, bitmaps });
    }
    const bitmap = kind === 'delta' ? { bitmap: changes } : {};
    await openExport(qmp, socketPath, { id: `${exportPrefix}${disk}`, node, name: disk, canDiscard: true, ...bitmap });
  }

  /** Reads and sends the point, then takes it away, also when that failed. */
  async function sendPoint(
    order: GuestBackupOrder,
    disks: FleeceDisk[],
    plan: { kind: BackupKind; because: string },
    upload: Upload,
    point: Awaited<ReturnType<typeof takePoint>>,
    fail: (reason: unknown) => void,
  ) {
    const { fleece, rest } = point;
    const onBroken = (): void => fail(fleece.broken.reason);
    fleece.broken.addEventListener('abort', onBroken, { once: true });
    const { name, config } = order.guest;
    const blob = { version: 1 as const, vmid, name, config, home: deps.node, generation };
    try {
      return await upload.send(
        {
          socketPath,
          disks,
          bitmap: plan.kind === 'delta' ? changes : null,
          canRelease: true,
          guestBlob: formatGuestBlob({ ...blob, pointAtMs: fleece.pointAtMs, consistency: rest.isRested ? 'frozen' : 'crash' }),
          notes: order.notes,
          rateBytesPerSecond: order.rateBytesPerSecond,
        },
        (progress) => order.onProgress(`${plan.kind} backup`, progress),
      );
    } finally {
      // The thread must not read from what is taken away, and what it keeps for it must not grow while another point is under way.
      await deps.points.hold(
        vmid,
        async () => {
          await closeExports(qmp, exportPrefix).finally(() => fleece.close());
        },
        { urgent: fleece.broken },
      );
    }
  }

  async function make(order: GuestBackupOrder, signal: AbortSignal): Promise<GuestBackupResult> {
    const startedMs = performance.now();
    const { access, target } = order;
    const failed = new AbortController();
    void guest.exited.then(({ reason }) => failed.abort(new AppError('unavailable', `guest ${vmid} has ended: ${reason}`)));
    const stop = AbortSignal.any([signal, failed.signal]);
    const disks = await readDisks();
    const snapshot: SnapshotId = {
      namespace: access.namespace,
      type: 'vm',
      id: String(vmid),
      atSeconds: Math.floor(deps.clock.wallMs() / 1_000),
    };
    order.onProgress('reaching the backup server', null);
    await using upload = await openUpload({ access, snapshot }, stop);
    if (await ensureTracking(qmp, disks, backupNames(target))) await note(target, () => null);
    const basis = (await readBackupBases(directory, guest.pid)).get(target) ?? null;
    const plan = planBackup(disks, basis, upload.previous);
    await note(target, (before) => ({ base: before?.base ?? null, pending: before?.pending ?? null }));
    order.onProgress('waiting for its turn to take a point', null);
    const point = await deps.points.hold(vmid, async () => {
      stop.throwIfAborted();
      await settleLeft(disks);
      return await takePoint(order, disks, plan.kind);
    });
    let arrived = false;
    try {
      const sent = await sendPoint(order, disks, plan, upload, point, (reason) => failed.abort(reason));
      stop.throwIfAborted();
      await order.confirm();
      const made: BackedUp = {
        group: formatGroup(snapshot),
        atSeconds: snapshot.atSeconds,
        key: access.key === null ? null : formatHex(access.key.fingerprint),
        disks: sent.disks,
      };
      await note(target, (before) => ({ base: before?.base ?? null, pending: made }));
      order.onProgress('the backup server makes it durable', null);
      await upload.finish();
      arrived = true;
      await note(target, () => ({ base: made, pending: null }));
      const { pointAtMs, pausedMs } = point.fleece;
      const consistency = point.rest.isRested ? ('frozen' as const) : ('crash' as const);
      const because = [plan.because, ...describeRest(order.freeze, point.rest, deps.rests.whyHeld(vmid))].join('; ');
      const figures = {
        ...sent.figures,
        kind: plan.kind,
        because,
        pausedMs,
        consistency,
        tookMs: Math.round(performance.now() - startedMs),
      };
      deps.log(`guest ${vmid}: backup ${formatSnapshot(snapshot)} to ${target} is complete`);
      return { snapshot, pointAtMs, figures };
    } finally {
      // What is left is given back before the next point: the bitmap then marks more than it must, never less.
      await point.fleece.settle(arrived).catch((error: unknown) => {
        deps.log(`guest ${vmid}: its bitmap for ${target} is not settled yet: ${formatErrorChain(error)}`);
      });
    }
  }

  return {
    make,
    async recover() {
      const disks = await readDisks();
      const bases = await readBackupBases(directory, guest.pid);
      await deps.points.hold(vmid, async () => {
        // Nobody's point is open now: a filter of the other kind was left too, and it stands above ours.
        await closeFleece(qmp, { disks, names: replicaNodes, scratch: { directory: join(deps.scratch, String(vmid)) } });
        await clear(disks);
        await settleLeft(disks);
        await deps.rests.releaseLeft(vmid);
        const { status } = await qmp.execute<{ status: string }>('query-status');
        // Only `stop` makes "paused"; a backup that was cut between stop and cont is the one who says it here.
        if (status === 'paused' && bases.size > 0) await qmp.execute('cont');
      });
    },
  };
}

/** What people must know of the guest's rest. `held`: why it is not known to go on. */
function describeRest(
  wasAsked: boolean,
  { isRested, because }: Pick<RestOutcome<unknown>, 'isRested' | 'because'>,
  held: string | null,
): string[] {
  if (held !== null) return [held];
  return wasAsked && !isRested ? [`its file systems were not at rest: ${because}`] : [];
}
