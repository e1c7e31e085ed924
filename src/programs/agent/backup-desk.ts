import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { formatSnapshot } from '#core/backup/names.ts';
import type { KeepRules } from '#core/backup/prune.ts';
import type { GuestBackupRecord } from '#core/guest-backup/records.ts';
import { keys } from '#core/ha/keys.ts';
import type { RequestOrder } from '#core/ha/requests.ts';
import { formatSize } from '#core/text/size.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import type { Store } from '#ports/store.ts';
import { confirmHome } from '#programs/agent/home-claim.ts';
import { slowly, type TellProgress } from '#programs/agent/tell-progress.ts';
import { readRecord } from '#programs/agent/world.ts';
import { createGuestBackups, type GuestBackupDeps, type GuestBackupResult } from '#programs/guest-backup/guest-backup.ts';
import { pruneGroup } from '#programs/guest-backup/prune-group.ts';
import { readTarget } from '#programs/agent/backup-targets.ts';
import { readTargetAccess } from '#programs/guest-backup/target-access.ts';

type BackupOrder = Extract<RequestOrder, { kind: 'guest-backup' }>;

/** `job`: whose run it is. `keep`: what stays on the target afterwards. */
export type DeskOrder = Omit<BackupOrder, 'kind'> & { job?: string; keep?: KeepRules | null };

/** Backups of this node's guests, as the cluster's record orders them. */
export type BackupDesk = {
  /** A guest runs: takes over what a backup of an earlier agent may have left in it. */
  takeOver(guest: RunningGuest): void;
  /** One backup of a guest that runs here; one at a time each. Returns lines for people. Raises AppError, which is told in the record too. */
  backUp(order: DeskOrder, tell: TellProgress, signal: AbortSignal): Promise<string[]>;
  isUnderWay(vmid: number): boolean;
  countUnderWay(): number;
};

export type BackupDeskOptions = GuestBackupDeps & {
  self: string;
  store: Store;
  running: () => RunningGuest[];
  readEpoch: () => number | null;
};

const what = 'back up';

export function createBackupDesk(options: BackupDeskOptions): BackupDesk {
  const { self, store, clock, log } = options;
  const underWay = new Set<number>();
  const takingOver = new Map<number, Promise<void>>();

  async function recover(guest: RunningGuest): Promise<void> {
    let isGone = false;
    void guest.exited.then(() => (isGone = true));
    while (!isGone) {
      try {
        return await createGuestBackups(guest, options).recover();
      } catch (error) {
        log(`guest ${guest.vmid}: what a backup left cannot be looked at yet: ${formatErrorChain(error)}`);
      }
      await new Promise((resolve) => setTimeout(resolve, limits.agentRoundMs).unref());
    }
  }

  /** Writes how it went, unless another home speaks for the guest by now. */
  async function note(
    guest: RunningGuest,
    target: string,
    change: (before: GuestBackupRecord) => Partial<GuestBackupRecord>,
  ): Promise<void> {
    const { vmid, generation } = guest;
    const key = keys.guestBackup(vmid, target);
    for (let attempt = 0; attempt < 4; attempt += 1) {
      const home = await confirmHome(options, guest, what);
      const before = await readRecord<GuestBackupRecord>(store, key);
      const empty: GuestBackupRecord = { vmid, target, node: self, generation, last: null, failed: null, jobs: {} };
      const now = before?.value ?? empty;
      const next: GuestBackupRecord = { ...now, node: self, generation, ...change(now) };
      const outcome = await store.commit(
        [
          { key: keys.guest(vmid), modRevision: home.modRevision },
          { key, modRevision: before?.modRevision ?? 0n },
        ],
        [{ key, value: JSON.stringify(next) }],
      );
      if (outcome.kind === 'committed') return;
    }
    throw new AppError('conflict', `tell how the backup of guest ${vmid} went: four attempts met another writer`);
  }

  async function make(
    guest: RunningGuest,
    order: DeskOrder,
    tell: TellProgress,
    signal: AbortSignal,
  ): Promise<GuestBackupResult> {
    await takingOver.get(guest.vmid);
    const target = await readTarget(store, order.target);
    const access = await readTargetAccess(target);
    const { value: record } = await confirmHome(options, guest, what);
    const say = slowly(tell);
    return await createGuestBackups(guest, options).make(
      {
        target: order.target,
        access,
        guest: { name: record.name, config: record.config },
        freeze: order.freeze,
        notes: order.notes,
        rateBytesPerSecond: order.rateBytesPerSecond,
        confirm: async () => void (await confirmHome(options, guest, what)),
        onProgress: say,
      },
      signal,
    );
  }

  /** The backup itself is complete by then: trouble is told, not raised. */
  async function prune({ vmid, target, keep = null }: DeskOrder, signal: AbortSignal): Promise<string[]> {
    if (keep === null) return [];
    try {
      await pruneGroup(await readTargetAccess(await readTarget(store, target)), vmid, keep, signal);
      return [];
    } catch (error) {
      return [`older backups on ${target} were NOT thinned out: ${formatErrorChain(error)}`];
    }
  }

  return {
    isUnderWay: (vmid) => underWay.has(vmid),
    countUnderWay: () => underWay.size,
    takeOver(guest) {
      const done = recover(guest);
      takingOver.set(guest.vmid, done);
    },
    async backUp(order, tell, signal) {
      const { vmid, target } = order;
      const guest = options.running().find((candidate) => candidate.vmid === vmid);
      if (guest === undefined) throw new AppError('missing', `back up guest ${vmid}: it does not run on ${self}; start it first`);
      if (underWay.has(vmid)) throw new AppError('busy', `back up guest ${vmid}: another backup of it is under way`);
      underWay.add(vmid);
      try {
        const { job } = order;
        if (job !== undefined) await note(guest, target, ({ jobs }) => ({ jobs: { ...jobs, [job]: clock.wallMs() } }));
        const { snapshot, pointAtMs, figures } = await make(guest, order, tell, signal);
        const last = { snapshot: formatSnapshot(snapshot), atSeconds: snapshot.atSeconds, pointAtMs, figures };
        await note(guest, target, () => ({ last, failed: null }));
        const kept = await prune(order, signal);
        return [
          `guest ${vmid}: backup ${last.snapshot} on ${target} is complete after ${(figures.tookMs / 1_000).toFixed(1)} s (${figures.kind}: ${figures.because})`,
          `read ${formatSize(figures.readBytes)} of ${formatSize(figures.totalBytes)}, sent ${figures.sentChunks} chunks (${formatSize(figures.sentDataBytes)}, on the wire ${formatSize(figures.sentWireBytes)}); guest paused ${figures.pausedMs} ms, file systems ${figures.consistency === 'frozen' ? 'at rest' : 'as after a power cut'}`,
          ...kept,
        ];
      } catch (error) {
        log(`guest ${vmid}: backup to ${target} failed: ${formatErrorChain(error)}`);
        const failed = { atMs: clock.wallMs(), because: formatErrorChain(error) };
        await note(guest, target, () => ({ failed })).catch((lower: unknown) => {
          if (!isAppError(lower)) throw lower; // it is told to whoever asked
        });
        throw error;
      } finally {
        underWay.delete(vmid);
      }
    },
  };
}
