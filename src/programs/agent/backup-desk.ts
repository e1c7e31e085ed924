import { setTimeout as delay } from 'node:timers/promises';
import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { createTurns } from '#programs/agent/turns.ts';
import { formatSnapshot } from '#core/backup/names.ts';
import type { GuestBackupRecord, JobRun } from '#core/guest-backup/records.ts';
import { keys } from '#core/ha/keys.ts';
import type { RequestOrder } from '#core/ha/requests.ts';
import { formatSize } from '#core/text/size.ts';
import type { HaResource } from '#core/ha/records.ts';
import type { GuestStorage, ServedDisks } from '#ports/guest-storage.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import type { Store } from '#ports/store.ts';
import type { GuestLoop } from '#programs/agent/guest-loop.ts';
import { claimHome, confirmHome, type HomeClaim } from '#programs/agent/home-claim.ts';
import { slowly, type TellProgress } from '#programs/agent/tell-progress.ts';
import { readRecord } from '#programs/agent/world.ts';
import {
  createGuestBackups,
  type GuestBackupDeps,
  type GuestBackupOrder,
  type GuestBackupResult,
} from '#programs/guest-backup/guest-backup.ts';
import { backUpStopped } from '#programs/guest-backup/stopped-backup.ts';
import { pruneGroup } from '#programs/guest-backup/prune-group.ts';
import { readTarget } from '#programs/agent/backup-targets.ts';
import { readTargetAccess } from '#programs/guest-backup/target-access.ts';

type BackupOrder = Extract<RequestOrder, { kind: 'guest-backup' }>;

export type DeskOrder = Omit<BackupOrder, 'kind'> & Partial<JobRun>;

/** Backups of this node's guests, as the cluster's record orders them. */
export type BackupDesk = {
  /** A guest runs: takes over what a backup of an earlier agent may have left in it. */
  takeOver(guest: RunningGuest): void;
  /**
   * One backup of a guest that is at home here, running or stopped; one at a time each, and `backupsAtOnce` of all: the others wait for their turn. Returns
   * lines for people. Raises AppError, which is told in the record too.
   */
  backUp(order: DeskOrder, tell: TellProgress, signal: AbortSignal): Promise<string[]>;
  /** Also when it waits for its turn. */
  isUnderWay(vmid: number): boolean;
};

export type BackupDeskOptions = GuestBackupDeps & {
  self: string;
  store: Store;
  storage: Pick<GuestStorage, 'serve' | 'arrivals'>;
  running: () => RunningGuest[];
  readEpoch: () => number | null;
  yieldingly: GuestLoop['yieldingly'];
};

const what = 'back up';

export function createBackupDesk(options: BackupDeskOptions): BackupDesk {
  const { self, store, clock, log } = options;
  const underWay = new Set<number>();
  const turns = createTurns(limits.backupsAtOnce);
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
    guest: HomeClaim,
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

  async function orderFor(claim: HomeClaim, order: DeskOrder, tell: TellProgress): Promise<GuestBackupOrder> {
    const { target, freeze, notes, rateBytesPerSecond } = order;
    const access = await readTargetAccess(await readTarget(store, target));
    const { value: record } = await confirmHome(options, claim, what);
    const guest = { name: record.name, config: record.config };
    const confirm = async (): Promise<void> => void (await confirmHome(options, claim, what));
    return { target, access, guest, freeze, notes, rateBytesPerSecond, confirm, onProgress: slowly(tell) };
  }

  async function make(
    guest: RunningGuest,
    order: DeskOrder,
    tell: TellProgress,
    signal: AbortSignal,
  ): Promise<GuestBackupResult> {
    await takingOver.get(guest.vmid);
    return await createGuestBackups(guest, options).make(await orderFor(guest, order, tell), signal);
  }

  /** The disks as they lie there. Whoever wants to do something with the guest meanwhile comes first: the backup is given up then. */
  async function makeStopped(
    claim: HomeClaim,
    order: DeskOrder,
    tell: TellProgress,
    signal: AbortSignal,
  ): Promise<GuestBackupResult> {
    const { vmid, generation } = claim;
    const resource = await readRecord<HaResource>(store, keys.haResource(vmid));
    if (resource?.value.want === 'started')
      throw new AppError('busy', `back up guest ${vmid}: it is wanted started and does not run yet; ask again once it does`);
    const serve = (): Promise<ServedDisks> => options.storage.serve(vmid, generation);
    return await backUpStopped(options, { vmid, generation, serve }, await orderFor(claim, order, tell), signal);
  }

  /** The backup itself is complete by then: trouble is told, not raised. */
  async function prune({ vmid, target, keep = null }: DeskOrder, signal: AbortSignal): Promise<string | null> {
    if (keep === null) return null;
    try {
      await pruneGroup(await readTargetAccess(await readTarget(store, target)), vmid, keep, signal);
      return null;
    } catch (error) {
      return formatErrorChain(error);
    }
  }

  const findRunning = (vmid: number): RunningGuest | undefined => options.running().find((guest) => guest.vmid === vmid);

  /** Backups are told apart by their second: waits until that of the newest is over. A clock that was set back further is the server's to refuse. */
  async function waitForNewSecond({ vmid, target }: DeskOrder, signal: AbortSignal): Promise<void> {
    const record = await readRecord<GuestBackupRecord>(store, keys.guestBackup(vmid, target));
    const leftMs = ((record?.value.last?.atSeconds ?? 0) + 1) * 1_000 - clock.wallMs();
    if (leftMs > 0 && leftMs <= 1_000) await delay(leftMs, undefined, { signal });
  }

  /** Carries a backup out and records how it went. */
  async function told(
    claim: HomeClaim,
    order: DeskOrder,
    work: () => Promise<GuestBackupResult>,
    signal: AbortSignal,
  ): Promise<string[]> {
    const { vmid, target, job, tries = 0 } = order;
    try {
      if (job !== undefined) await note(claim, target, ({ jobs }) => ({ jobs: { ...jobs, [job]: clock.wallMs() } }));
      await waitForNewSecond(order, signal);
      const { snapshot, pointAtMs, figures } = await work();
      const last = { snapshot: formatSnapshot(snapshot), atSeconds: snapshot.atSeconds, pointAtMs, figures };
      await note(claim, target, () => ({ last, failed: null }));
      const notThinned = await prune(order, signal);
      if (notThinned === null) return describeBackup(order, last);
      await note(claim, target, () => ({ last: { ...last, notThinned } }));
      return [...describeBackup(order, last), `older backups on ${target} were NOT thinned out: ${notThinned}`];
    } catch (error) {
      log(`guest ${vmid}: backup to ${target} failed: ${formatErrorChain(error)}`);
      // Who withdraws it does not want it tried again.
      const again = job === undefined || signal.aborted ? {} : { job, tries: tries + 1 };
      const failed = { atMs: clock.wallMs(), because: formatErrorChain(error), ...again };
      await note(claim, target, () => ({ failed })).catch((lower: unknown) => {
        if (!isAppError(lower)) throw lower; // it is told to whoever asked
      });
      throw error;
    }
  }

  return {
    isUnderWay: (vmid) => underWay.has(vmid),
    takeOver(guest) {
      const done = recover(guest);
      takingOver.set(guest.vmid, done);
    },
    async backUp(order, tell, signal) {
      const { vmid } = order;
      if (underWay.has(vmid)) throw new AppError('busy', `back up guest ${vmid}: another backup of it is under way`);
      underWay.add(vmid);
      try {
        const say = (): void => void tell(`waiting for its turn: ${self} makes ${limits.backupsAtOnce} backups at a time`);
        using _turn = await turns.take(signal, say);
        const arriving = (await options.storage.arrivals?.list())?.find((copy) => copy.vmid === vmid);
        if (arriving?.arrival.isComplete === false)
          throw new AppError(
            'busy',
            `back up guest ${vmid}: its disks still stream in from a backup; ask again once they are complete`,
          );
        const running = findRunning(vmid);
        if (running !== undefined) return await told(running, order, () => make(running, order, tell, signal), signal);
        return await options.yieldingly(vmid, async (wanted) => {
          if (findRunning(vmid) !== undefined)
            throw new AppError('busy', `back up guest ${vmid}: it was just started; ask again`);
          const claim = await claimHome(options, vmid, what);
          return await told(claim, order, () => makeStopped(claim, order, tell, AbortSignal.any([signal, wanted])), signal);
        });
      } finally {
        underWay.delete(vmid);
      }
    },
  };
}

const states = { frozen: 'at rest', crash: 'as after a power cut', stopped: 'as it had left them' } as const;

function describeBackup({ vmid, target }: DeskOrder, { snapshot, figures }: NonNullable<GuestBackupRecord['last']>): string[] {
  const { tookMs, kind, because, readBytes, totalBytes, sentChunks, sentDataBytes, sentWireBytes } = figures;
  const sent = `${sentChunks} chunks (${formatSize(sentDataBytes)}, on the wire ${formatSize(sentWireBytes)})`;
  return [
    `guest ${vmid}: backup ${snapshot} on ${target} is complete after ${(tookMs / 1_000).toFixed(1)} s (${kind}: ${because})`,
    `read ${formatSize(readBytes)} of ${formatSize(totalBytes)}, sent ${sent}; guest paused ${figures.pausedMs} ms, file systems ${states[figures.consistency]}`,
  ];
}
