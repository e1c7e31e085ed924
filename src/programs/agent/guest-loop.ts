import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { type GuestAction, type GuestPlanFacts, planGuestAction } from '#core/guest/guest-plan.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { isFailureTold, planStatus, toldBegin, toldEnd, toldFailed } from '#core/guest/order-end.ts';
import { noteDeath, noteFailed, orderKey, planRetry, triesUnder } from '#core/guest/order-tries.ts';
import { resourceWithDefaults } from '#core/ha/ha-settings.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaResource, HaStatus } from '#core/ha/records.ts';
import type { GuestCopy } from '#ports/guest-storage.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import { lookAtFound } from '#programs/agent/found-process.ts';
import { createActions } from '#programs/agent/guest-actions.ts';
import { freshMemory, type GuestMemory } from '#programs/agent/guest-memory.ts';
import type { GuestLoopOptions } from '#programs/agent/guest-world.ts';
import { createStatusDesk } from '#programs/agent/status-desk.ts';

/**
 * Drives the guests of this node: for each one reads the record, what runs and what copy lies here, asks core/guest/guest-plan.ts
 * for one action, tells what is so (core/guest/order-end.ts) and performs it. One action a guest at a time; guests do not wait for each other.
 */
export type GuestLoop = {
  run(signal: AbortSignal): Promise<void>;
  running(): RunningGuest[];
  /** Why the guest's last state could not be given to any other node, now that this one ends; null: it was, or that is still tried. */
  whyNotCopied(vmid: number): string | null;
  /** Runs `work` while no action on the guest is under way and none starts. Raises AppError busy when one is. */
  exclusively<T>(vmid: number, work: () => Promise<T>): Promise<T>;
  /** The same for work that gives way: `wanted` aborts, with why, as soon as something is to be done with the guest. */
  yieldingly<T>(vmid: number, work: (wanted: AbortSignal) => Promise<T>): Promise<T>;
};

export function createGuestLoop(options: GuestLoopOptions): GuestLoop {
  const { self, world, clock, bell, storage, replication, log } = options;
  const memories = new Map<number, GuestMemory>();
  const busy = new Set<number>();
  const yielding = new Map<number, AbortController>();
  const desk = createStatusDesk(options);
  const perform = createActions(options, desk, (guest) => attach(guest));
  let copies = new Map<number, GuestCopy>();
  const adopted = Promise.withResolvers<void>();

  function memoryOf(vmid: number): GuestMemory {
    const known = memories.get(vmid) ?? freshMemory(vmid);
    memories.set(vmid, known);
    return known;
  }

  function running(): RunningGuest[] {
    return [...memories.values()].flatMap(({ process }) => (process === null ? [] : [process]));
  }

  function attach(guest: RunningGuest): void {
    const memory = memoryOf(guest.vmid);
    Object.assign(memory, {
      process: guest,
      state: 'unknown',
      isEnding: false,
      preCopiedUnder: null,
    } satisfies Partial<GuestMemory>);
    void guest.exited.then(async ({ reason }) => {
      log.info({ event: 'guest.exited', guest: guest.vmid, generation: guest.generation }, reason);
      if (memory.process !== guest) return;
      memory.process = null;
      const died = memory.state === 'running' && !memory.isEnding;
      memory.tries = died ? noteDeath(memory.tries, reason, clock.bootMs()) : { ...memory.tries, startedAtBootMs: null };
      await replication.stopGuest(guest.vmid);
      bell.ring();
    });
  }

  async function adopt(): Promise<void> {
    for (const guest of await options.hypervisor.adopt()) {
      log.info({ event: 'guest.adopted', guest: guest.vmid, generation: guest.generation }, `pid ${guest.pid}`);
      attach(guest);
      void lookAtFound(guest)
        .then((state) => {
          const memory = memoryOf(guest.vmid);
          if (state === null || memory.process !== guest) return;
          log.info({ event: 'guest.found', guest: guest.vmid, state }, 'as an earlier agent left it');
          memory.state = state;
          if (state === 'running') replication.startGuest(guest);
          bell.ring();
        })
        .catch((error: unknown) =>
          log.warn({ event: 'guest.not-looked-at', guest: guest.vmid, err: error }, 'it may have been left half started'),
        );
    }
  }

  async function readCopies(): Promise<void> {
    copies = new Map((await storage.listCopies()).map((copy) => [copy.vmid, copy]));
  }

  function readFacts(memory: GuestMemory): GuestPlanFacts {
    const { vmid, process, state } = memory;
    const record = world.read<GuestRecord>(keys.guest(vmid))?.value ?? null;
    const resource = world.read<HaResource>(keys.haResource(vmid))?.value ?? null;
    const copy = copies.get(vmid) ?? null;
    const ending = options.readEnding();
    const key = record === null ? '' : orderKey(record);
    memory.tries = triesUnder(memory.tries, ending === null ? key : `${key}/${ending}`);
    const isStart = record?.order?.kind === 'run' && ending === null;
    const retries = isStart ? resourceWithDefaults(vmid, resource).localRetries : limits.handOverRetries;
    const retry = planRetry(memory.tries, retries, clock.bootMs());
    memory.notCopied = ending === 'give-up' && retry.kind === 'gave-up' ? retry.because : null;
    return {
      self,
      epoch: options.readEpoch(),
      record,
      want: resource?.want ?? null,
      process: process === null ? null : { generation: process.generation, nodeEpoch: process.nodeEpoch, state },
      copy: copy === null ? null : { ...copy, promotedFrom: promotedFrom(copy) },
      began: toldBegin(record, world.read<HaStatus>(keys.haStatus(vmid))?.value ?? null),
      ended: toldEnd(self, record, desk.told(vmid)),
      hasFailed: toldFailed(self, record, desk.told(vmid)),
      preCopied: memory.preCopiedUnder === key,
      retry,
      ending,
    };
  }

  /** One look at a guest and the one action that follows. True: something was done, so there may be more to do. */
  async function step(vmid: number): Promise<boolean> {
    const memory = memoryOf(vmid);
    let facts = readFacts(memory);
    let action = planGuestAction(facts);
    // What lies here may have changed since the round began, and some conclusions from it are not easily taken back.
    if (action.kind === 'refuse' || action.kind === 'give-up' || action.kind === 'open') {
      await readCopies();
      facts = readFacts(memory);
      action = planGuestAction(facts);
    }
    const { record } = facts;
    if (record?.home !== self) desk.forget(vmid);
    if (isWaiting(memory, record, action)) return false;
    try {
      const status = planStatus(facts, action, memory.tries, clock.bootMs());
      if (record !== null && status !== null) await desk.tell(record, status);
      const attempt = await perform(memory, record, action);
      if (attempt.kind === 'failed') noteAttempt(memory, action, attempt.error);
      memory.failure = null;
      return attempt.kind === 'done';
    } catch (error) {
      await noteTrouble(memory, record, action, error);
      return false;
    }
  }

  function isWaiting(memory: GuestMemory, record: GuestRecord | null, action: GuestAction): boolean {
    const { failure } = memory;
    return failure?.key === failureKey(record, action) && clock.bootMs() < failure.retryAtBootMs;
  }

  function noteAttempt(memory: GuestMemory, action: GuestAction, error: unknown): void {
    memory.tries = noteFailed(memory.tries, `${action.kind}: ${formatErrorChain(error)}`, clock.bootMs());
    const { failed } = memory.tries;
    log.warn({ event: 'guest.attempt-failed', guest: memory.vmid, action: action.kind, err: error }, `failure ${failed}`);
  }

  async function noteTrouble(
    memory: GuestMemory,
    record: GuestRecord | null,
    action: GuestAction,
    error: unknown,
  ): Promise<void> {
    const { vmid } = memory;
    const key = failureKey(record, action);
    const count = memory.failure?.key === key ? memory.failure.count + 1 : 1;
    const waitMs = Math.min(limits.guestRetryMs * 2 ** (count - 1), limits.guestRetryMaxMs);
    memory.failure = { key, count, retryAtBootMs: clock.bootMs() + waitMs };
    const text = `try ${count}, next in ${waitMs} ms`;
    log.warn({ event: 'guest.action-failed', guest: vmid, action: action.kind, err: error }, text);
    if (record === null || record.home !== self || action.kind === 'none') return;
    if (!isFailureTold(action, memory.process !== null)) return;
    const because = `${action.kind} failed (try ${count}): ${formatErrorChain(error)}`;
    await desk.tell(record, { state: 'failed', because, end: null }).catch((lower: unknown) => {
      if (!isAppError(lower)) throw lower;
    });
  }

  function launch(vmid: number): void {
    if (busy.has(vmid)) {
      const action = yielding.has(vmid) ? planGuestAction(readFacts(memoryOf(vmid))) : null;
      if (action !== null && action.kind !== 'none' && action.kind !== 'refuse') giveWay(vmid, action.because);
      return;
    }
    busy.add(vmid);
    void step(vmid)
      .catch((error: unknown) => {
        log.warn({ event: 'guest.step-failed', guest: vmid, err: error }, 'looked at again next round');
        return false;
      })
      .then((mayBeMore) => {
        busy.delete(vmid);
        if (isForgotten(vmid)) memories.delete(vmid);
        else if (mayBeMore) bell.ring();
      });
  }

  function isForgotten(vmid: number): boolean {
    return memoryOf(vmid).process === null && world.read(keys.guest(vmid)) === null;
  }

  function giveWay(vmid: number, because: string): void {
    yielding.get(vmid)?.abort(new AppError('busy', `guest ${vmid} is wanted meanwhile: ${because}`));
  }

  async function exclusively<T>(vmid: number, work: () => Promise<T>): Promise<T> {
    // Until the guests that run here are known, none may be taken for stopped.
    await adopted.promise;
    giveWay(vmid, 'an operator asks for something');
    const giveUpAtBootMs = clock.bootMs() + limits.guestBusyMs;
    while (busy.has(vmid) && clock.bootMs() < giveUpAtBootMs) await new Promise((resolve) => setTimeout(resolve, 50));
    if (busy.has(vmid)) throw busyError(vmid);
    busy.add(vmid);
    try {
      return await work();
    } finally {
      busy.delete(vmid);
      bell.ring();
    }
  }

  return {
    running,
    whyNotCopied: (vmid) => memories.get(vmid)?.notCopied ?? null,
    exclusively,
    yieldingly: (vmid, work) =>
      exclusively(vmid, async () => {
        const wanted = new AbortController();
        yielding.set(vmid, wanted);
        try {
          return await work(wanted.signal);
        } finally {
          yielding.delete(vmid);
        }
      }),
    async run(signal) {
      await adopt();
      adopted.resolve();
      while (!signal.aborted) {
        if (world.isReady()) {
          await readCopies();
          const known = world.list<GuestRecord>(prefixes.guests).map((entry) => entry.value.vmid);
          for (const vmid of new Set([...known, ...running().map((guest) => guest.vmid)])) launch(vmid);
        }
        await bell.next(limits.agentRoundMs, signal);
      }
    },
  };
}

function promotedFrom({ role, point, pointAtMs }: GuestCopy): HaStatus['promoted'] {
  return role === 'primary' && point !== null && pointAtMs !== null ? { point, pointAtMs } : null;
}

function failureKey(record: GuestRecord | null, action: GuestAction): string {
  return `${action.kind} ${record === null ? '' : orderKey(record)}`;
}

function busyError(vmid: number): AppError {
  return new AppError('busy', `guest ${vmid}: another action on it has not ended; try again`);
}
