import { formatErrorChain, isAppError, AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { liveLimits, type LiveLimits } from '#core/guest-backup/live-limits.ts';
import { keys } from '#core/ha/keys.ts';
import type { Arrivals, ArrivingCopy, GuestStorage } from '#ports/guest-storage.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import type { Store } from '#ports/store.ts';
import { readTarget } from '#programs/agent/backup-targets.ts';
import type { GuestLoop } from '#programs/agent/guest-loop.ts';
import { slowly, type TellProgress } from '#programs/agent/tell-progress.ts';
import type { World } from '#programs/agent/world.ts';
import { type LiveState, type LiveStream, startLiveStream } from '#programs/guest-backup/live-thread.ts';
import { readFromBases, waitsForData } from '#programs/guest-backup/live-switch.ts';
import { readTargetAccess } from '#programs/guest-backup/target-access.ts';
import { runPaths } from '#programs/replication/paths.ts';

/**
 * Guests that live on disks which still stream in from a backup. What drives a stream is the copy that lies here, not the request: so it goes on
 * under the next agent, and while the guest is stopped.
 *
 *   copy of which not all is here, its guest at home here ─► thread: serve, fill ─► all here ─► guest reads from the layers themselves ─► complete
 *                                                              └ a read waited in vain: guest paused ─► the chunk has come: it goes on
 */
export type LiveRestores = {
  /** Serves the guest's disks and fills them from now on. Returns when it can be started. Raises AppError. */
  begin(vmid: number): Promise<void>;
  /** Returns when all is here. Raises AppError when the guest is gone, or `signal`'s reason. */
  follow(vmid: number, tell: TellProgress, signal: AbortSignal): Promise<void>;
  /** Serves and fills them no more; what lies there stays. For a caller that lets nothing start them. */
  end(vmid: number): Promise<void>;
  /** Takes up what an earlier agent left, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
};

export type LiveRestoresOptions = {
  self: string;
  /** The node's run folder. */
  run: string;
  user: { uid: number; gid: number } | null;
  store: Store;
  world: World;
  storage: Pick<GuestStorage, 'arrivals'>;
  guests: Pick<GuestLoop, 'exclusively' | 'running'>;
  /** Shorter than usual for whoever tries it out. */
  timing?: LiveLimits;
  log: (text: string) => void;
};

type Streaming = { copy: ArrivingCopy; stream: Promise<LiveStream>; isEnded: boolean };

export function createLiveRestores(options: LiveRestoresOptions): LiveRestores {
  const { self, store, world, guests, log } = options;
  const timing = options.timing ?? liveLimits;
  const streams = new Map<number, Streaming>();

  async function find(vmid: number): Promise<ArrivingCopy | null> {
    return (await options.storage.arrivals?.list())?.find((copy) => copy.vmid === vmid) ?? null;
  }

  function findRunning(vmid: number): RunningGuest | null {
    return guests.running().find((guest) => guest.vmid === vmid) ?? null;
  }

  async function start(arrivals: Arrivals, copy: ArrivingCopy): Promise<LiveStream> {
    const { vmid, arrival, disks } = copy;
    const socketPath = runPaths.arrival(options.run, vmid);
    const access = async () => await readTargetAccess(await readTarget(store, arrival.target));
    const stream = await startLiveStream({ disks, arrival, socketPath, owner: options.user, limits: timing }, access);
    arrivals.serveFrom(vmid, socketPath);
    log(`guest ${vmid}: its disks stream in from ${arrival.target}`);
    return stream;
  }

  async function begin(vmid: number): Promise<void> {
    const known = streams.get(vmid);
    if (known !== undefined) return void (await known.stream);
    const copy = await find(vmid);
    const { arrivals } = options.storage;
    if (arrivals === null || copy === null || copy.arrival.isComplete || streams.has(vmid)) return;
    const streaming: Streaming = { copy, stream: start(arrivals, copy), isEnded: false };
    streams.set(vmid, streaming);
    try {
      const stream = await streaming.stream;
      void stream.complete.then(
        () => finishOften(arrivals, streaming),
        (error: unknown) => drop(streaming, error),
      );
    } catch (error) {
      streams.delete(vmid);
      throw error;
    }
  }

  /** The thread is gone; the next round begins anew. */
  async function drop(streaming: Streaming, error: unknown): Promise<void> {
    if (streaming.isEnded) return;
    log(`guest ${streaming.copy.vmid}: its disks do not stream in just now: ${formatErrorChain(error)}`);
    await end(streaming.copy.vmid);
  }

  async function end(vmid: number): Promise<void> {
    const streaming = streams.get(vmid);
    if (streaming === undefined) return;
    streaming.isEnded = true;
    options.storage.arrivals?.serveFrom(vmid, null);
    const stream = await streaming.stream.catch(() => null); // whoever began it is told
    await stream?.[Symbol.asyncDispose]();
    if (streams.get(vmid) === streaming) streams.delete(vmid);
  }

  async function finishOften(arrivals: Arrivals, streaming: Streaming): Promise<void> {
    const { vmid, generation, disks } = streaming.copy;
    while (!streaming.isEnded) {
      try {
        await guests.exclusively(vmid, async () => {
          if (streaming.isEnded) return;
          const guest = findRunning(vmid);
          if (guest !== null) {
            await readFromBases(guest.qmp, disks);
            await letRunOn(guest);
          }
          await arrivals.complete(vmid, generation, { isOpen: guest !== null });
        });
        log(`guest ${vmid}: its disks are complete`);
        return await end(vmid);
      } catch (error) {
        log(`guest ${vmid}: all of its disks is here, but not taken over yet: ${formatErrorChain(error)}`);
        await pause(limits.agentRoundMs);
      }
    }
  }

  /** A guest that was stopped for good stays so: whoever asks lets nothing else be done with it. */
  async function letRunOn(guest: RunningGuest): Promise<void> {
    if ((await guest.readState()) !== 'running' || !(await waitsForData(guest.qmp))) return;
    await guest.qmp.execute('cont');
    log(`guest ${guest.vmid}: runs on, what it waited for is here`);
  }

  async function wake({ copy: { vmid }, stream }: Streaming): Promise<void> {
    const guest = findRunning(vmid);
    if (guest === null || (await stream).state().owed > 0 || !(await waitsForData(guest.qmp))) return;
    await guests.exclusively(vmid, async () => {
      const still = findRunning(vmid);
      if (still !== null) await letRunOn(still);
    });
  }

  /** One look: streams that should be and are not, or the other way round, and guests that wait. */
  async function round(): Promise<void> {
    if (!world.isReady()) return;
    for (const { vmid, generation, arrival } of (await options.storage.arrivals?.list()) ?? []) {
      const record = world.read<GuestRecord>(keys.guest(vmid))?.value;
      if (record === undefined || arrival.isComplete) continue; // without a record it is its request's affair
      if (record.home === self && record.generation === generation) await attempt(vmid, () => begin(vmid));
      else await end(vmid);
    }
    for (const streaming of streams.values()) {
      const { vmid } = streaming.copy;
      await attempt(vmid, async () => ((await find(vmid)) === null ? end(vmid) : wake(streaming)));
    }
  }

  async function attempt(vmid: number, work: () => Promise<void>): Promise<void> {
    await work().catch((error: unknown) => log(`guest ${vmid}, while its disks stream in: ${formatErrorChain(error)}`));
  }

  return {
    begin,
    end,
    async follow(vmid, tell, signal) {
      const say = slowly(tell);
      for (;;) {
        signal.throwIfAborted();
        const copy = await find(vmid);
        if (copy === null && world.read(keys.guest(vmid)) === null)
          throw new AppError('conflict', `restore guest ${vmid}: it was deleted meanwhile`);
        if (copy?.arrival.isComplete === true) return;
        const stream = await streams.get(vmid)?.stream.catch(() => null);
        const state = stream?.state() ?? null;
        say(describe(vmid, state), state === null || state.totalBytes === 0 ? null : state);
        await pause(timing.lookMs);
      }
    },
    async run(signal) {
      while (!signal.aborted) {
        await round().catch((error: unknown) => {
          if (!isAppError(error)) throw error;
          log(formatErrorChain(error));
        });
        await pause(streams.size > 0 ? timing.lookMs : limits.agentRoundMs);
      }
      for (const vmid of streams.keys()) await end(vmid);
    },
  };
}

function describe(vmid: number, state: LiveState | null): string {
  const text = `guest ${vmid}: its disks stream in`;
  if (state === null) return `${text} again soon`;
  const waits = state.owed > 0 ? 'it is paused until what it reads is here; ' : '';
  const { trouble, bad } = state;
  if (trouble !== null) return `${text}; ${waits}tried again: ${trouble}`;
  if (bad !== null) return `${text}; ${waits}${bad.count} chunk(s) cannot be had yet: ${bad.because}`;
  return waits === '' ? text : `${text}; ${waits.slice(0, -2)}`;
}

/** Keeps no process that is about to end. */
function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}
