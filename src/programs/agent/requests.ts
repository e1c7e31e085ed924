import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { jobRunOf } from '#core/guest-backup/records.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaResource } from '#core/ha/records.ts';
import {
  formatRequest,
  isOfEarlierBoot,
  type RequestOrder,
  type RequestProgress,
  type RequestRecord,
  type RequestState,
  type RestoreOrder,
} from '#core/ha/requests.ts';
import type { GuestStorage, NewDisk } from '#ports/guest-storage.ts';
import type { Clock } from '#ports/clock.ts';
import type { CommitOutcome, Store, Write } from '#ports/store.ts';
import type { BackupDesk } from '#programs/agent/backup-desk.ts';
import type { Bell } from '#programs/agent/bell.ts';
import { deleteGuest } from '#programs/agent/guest-deletion.ts';
import type { GuestLoop } from '#programs/agent/guest-loop.ts';
import type { NodeEnd } from '#programs/agent/node-end.ts';
import { publishKeptDisks } from '#programs/agent/kept-disks.ts';
import type { LiveRestores } from '#programs/agent/live-restores.ts';
import { restoreLive, type RestoreLiveParts } from '#programs/agent/restore-live.ts';
import type { RestoreDesk, RestoredGuest } from '#programs/agent/restore-desk.ts';
import { testRestore } from '#programs/agent/restore-test.ts';
import type { TellProgress } from '#programs/agent/tell-progress.ts';
import { readRecord, type World } from '#programs/agent/world.ts';

/**
 * Carries out what operators ask of this node (core/ha/requests.ts): take a request up by compare-and-set, do it, write its end
 * the same way. A request found `running` at start was cut by a crash and is begun again; every kind bears that.
 */
export type RequestsOptions = {
  self: string;
  /** This boot of the machine. */
  bootId: string;
  /** The node's run folder. */
  run: string;
  store: Store;
  clock: Clock;
  world: World;
  bell: Bell;
  storage: GuestStorage;
  guests: GuestLoop;
  syncNow: (vmid: number, target: string | null) => Promise<string[]>;
  nodeEnd: NodeEnd;
  backups: Pick<BackupDesk, 'backUp'>;
  restores: RestoreDesk;
  live: LiveRestores;
  log: { info(fields: object, text: string): void; warn(fields: object, text: string): void };
};

export async function runRequests(options: RequestsOptions, signal: AbortSignal): Promise<void> {
  const begun = new Set<string>();
  while (!signal.aborted) {
    for (const entry of options.world.list<RequestRecord>(prefixes.requests)) {
      const request = entry.value;
      const open = request.state === 'waiting' || request.state === 'running';
      if (request.node !== options.self || !open || begun.has(request.id)) continue;
      begun.add(request.id);
      void handle(options, request, entry.modRevision)
        .catch((error: unknown) => options.log.warn({ event: 'request.lost', request: request.id, err: error }, 'is tried again'))
        .finally(() => setTimeout(() => begun.delete(request.id), limits.agentRoundMs).unref());
    }
    await options.bell.next(limits.agentRoundMs, signal);
  }
}

async function handle(options: RequestsOptions, request: RequestRecord, modRevision: bigint): Promise<void> {
  const key = keys.request(request.id);
  const write = async (state: RequestState, revision: bigint) =>
    options.store.commit([{ key, modRevision: revision }], [{ key, value: JSON.stringify({ ...orderOf(request), ...state }) }]);
  const progress = { text: 'begun', doneBytes: null, totalBytes: null };
  const taken = await write({ state: 'running', progress, bootId: options.bootId }, modRevision);
  if (taken.kind !== 'committed') return;
  options.log.info({ event: 'request.begun', request: request.id, kind: request.kind }, formatRequest(request));
  let end: RequestState;
  try {
    const tell: TellProgress = async (text, doneBytes = null, totalBytes = null) =>
      tellProgress(options.store, key, { text, doneBytes, totalBytes });
    using withdrawn = watchWithdrawal(options.world, key);
    end = { state: 'done', result: await perform(options, request, tell, withdrawn.signal) };
  } catch (error) {
    const kind = isAppError(error) ? error.kind : 'unavailable';
    end = { state: 'failed', error: { kind, message: formatErrorChain(error) } };
    options.log.warn({ event: 'request.failed', request: request.id, err: error }, request.kind);
  }
  const current = await readRecord<RequestRecord>(options.store, key);
  if (current !== null) await write(end, current.modRevision);
}

/** For people only: when it cannot be told now, the work goes on. */
async function tellProgress(store: Store, key: string, progress: RequestProgress): Promise<void> {
  try {
    const current = await readRecord<RequestRecord>(store, key);
    if (current?.value.state !== 'running') return;
    const next: RequestRecord = { ...current.value, progress };
    await store.commit([{ key, modRevision: current.modRevision }], [{ key, value: JSON.stringify(next) }]);
  } catch (error) {
    if (!isAppError(error)) throw error;
  }
}

/** Aborts when the request is deleted: whoever asked does not want it any more. */
function watchWithdrawal(world: World, key: string): Disposable & { signal: AbortSignal } {
  const controller = new AbortController();
  const timer = setInterval(() => {
    if (world.read(key) === null) controller.abort(new AppError('conflict', 'somebody withdrew the request'));
  }, limits.withdrawalLookMs);
  return { signal: controller.signal, [Symbol.dispose]: () => clearInterval(timer) };
}

function orderOf(request: RequestRecord): Omit<RequestRecord, keyof RequestState> {
  const { state: _state, ...rest } = request;
  return rest;
}

async function perform(
  options: RequestsOptions,
  order: RequestRecord,
  tell: TellProgress,
  withdrawn: AbortSignal,
): Promise<string[]> {
  /** An earlier agent had begun it. */
  const isRepeated = order.state === 'running';
  switch (order.kind) {
    case 'guest-create':
      return options.guests.exclusively(order.vmid, async () => createGuest(options, order, isRepeated));
    case 'guest-delete':
      return options.guests.exclusively(order.vmid, async () => deleteGuest(options, order.vmid));
    case 'replication-sync':
      return options.syncNow(order.vmid, order.target);
    case 'node-end':
      if (isOfEarlierBoot(order, options.bootId)) {
        const why = 'the machine has booted since this was begun. Ask again if it is still to end';
        throw new AppError('conflict', `prepare ${options.self} for its end: ${why}`);
      }
      return options.nodeEnd.end(order, tell);
    case 'node-stay':
      return options.nodeEnd.stay();
    case 'guest-backup':
      return options.backups.backUp({ ...order, ...jobRunOf(order) }, tell, withdrawn);
    case 'guest-restore':
      if (order.live === true) return restoreLive(partsOfLive(options, order, isRepeated, tell, withdrawn), order);
      return (await restoreGuest(options, order, isRepeated, { id: order.id, tell, signal: withdrawn })).lines;
    case 'restore-test':
      return testRestore(
        {
          self: options.self,
          run: options.run,
          store: options.store,
          clock: options.clock,
          tell,
          signal: withdrawn,
          restore: async (restore) => restoreGuest(options, restore, false, { id: order.id, tell, signal: withdrawn }),
          remove: async (vmid) => void (await options.guests.exclusively(vmid, async () => deleteGuest(options, vmid))),
        },
        order,
      );
    case 'tail-release':
      await options.storage.releaseLeftBehind(order.vmid, order.name);
      await publishKeptDisks(options, order.vmid);
      return [`${order.name} of guest ${order.vmid} removed`];
    case 'tail-export':
      return options.storage.exportLeftBehind(order.vmid, order.name, order.directory);
  }
}

/** The guest is nobody else's business until it is there. */
function restoreGuest(
  options: RequestsOptions,
  order: RestoreOrder,
  isRepeated: boolean,
  told: { id: string; tell: TellProgress; signal: AbortSignal },
): Promise<RestoredGuest> {
  const { id, tell, signal } = told;
  return options.guests.exclusively(order.vmid, async () =>
    options.restores.restore(order, {
      tell,
      signal,
      create: async (made) => createGuest(options, made, isRepeated),
      tail: `replaced-${id}`,
    }),
  );
}

function partsOfLive(
  options: RequestsOptions,
  { id }: RequestRecord,
  isRepeated: boolean,
  tell: TellProgress,
  signal: AbortSignal,
): RestoreLiveParts {
  return {
    ...options,
    id,
    tell,
    signal,
    create: async (made) => createGuest(options, made, isRepeated),
    remove: async (vmid) => void (await deleteGuest(options, vmid)),
    log: (text) => options.log.info({ event: 'restore' }, text),
  };
}

/**
 * A guest to be made. `fills`: disk name to what writes its content. `make`: makes its disks in another way than usual. `beforeRecord`: done between
 * its disks and its record, also when the disks were there already.
 */
export type NewGuest = Omit<Extract<RequestOrder, { kind: 'guest-create' }>, 'kind'> & {
  fills?: Record<string, NewDisk['fill']>;
  make?: (disks: NewDisk[]) => Promise<void>;
  beforeRecord?: () => Promise<void>;
};

/**
 * Disks first, then the record. Disks that lie here already are never removed for a new guest: they may be all that is left of an
 * older one whose record was lost. Only a repeated request takes up the whole primary copy that its first try left.
 */
async function createGuest(options: RequestsOptions, order: NewGuest, isRepeated: boolean): Promise<string[]> {
  const { store, storage, self } = options;
  const done = [`guest ${order.vmid} created on ${self}`];
  const known = await readRecord<GuestRecord>(store, keys.guest(order.vmid));
  if (known !== null && isRepeated && isMadeBy(order, self, known.value)) return done;
  if (known !== null)
    throw new AppError('conflict', `vmid: guest ${order.vmid} exists (${known.value.name}); nothing was changed`);
  const left = (await storage.listCopies()).find((copy) => copy.vmid === order.vmid);
  const isOwnFirstTry = isRepeated && left?.role === 'primary' && left.generation === 1;
  if (left !== undefined && !isOwnFirstTry) {
    throw new AppError(
      'conflict',
      `vmid: ${self} holds a ${left.role} copy of an earlier guest ${order.vmid}; nothing was changed. Take another number, or move that copy's folder away`,
    );
  }
  const disks = order.config.disks.map((disk) => ({
    ...disk,
    importFile: order.imports[disk.name],
    fill: order.fills?.[disk.name],
  }));
  if (left === undefined) await (order.make ?? ((made) => storage.create(order.vmid, 1, made)))(disks);
  await order.beforeRecord?.().catch(async (error: unknown) => {
    if (left === undefined) await storage.remove(order.vmid);
    throw error;
  });
  const outcome = await recordGuest(store, order, self);
  if (outcome === 'committed') return done;
  const now = await readRecord<GuestRecord>(store, keys.guest(order.vmid));
  if (now !== null && isMadeBy(order, self, now.value)) return done;
  // A commit whose answer was lost may still be applied: then its disks must be there.
  if (outcome === 'maybe') {
    throw new AppError(
      'unavailable',
      `guest ${order.vmid}: the store did not confirm its record; its disks stay on ${self}, look again`,
    );
  }
  if (left === undefined) await storage.remove(order.vmid);
  throw new AppError('conflict', `guest ${order.vmid}: somebody created it at the same moment; nothing was changed`);
}

function isMadeBy(order: NewGuest, self: string, record: GuestRecord): boolean {
  const isSame = JSON.stringify(record.config) === JSON.stringify(order.config);
  return isSame && record.name === order.name && record.home === self && record.generation === 1;
}

async function recordGuest(store: Store, order: NewGuest, self: string): Promise<CommitOutcome['kind']> {
  const record: GuestRecord = {
    vmid: order.vmid,
    name: order.name,
    config: order.config,
    home: self,
    generation: 1,
    order: null,
  };
  const resource: HaResource = { vmid: order.vmid, want: order.want, maxDataAgeMs: null };
  const tombstone = await store.read(keys.guestTombstone(order.vmid));
  const writes: Write[] = [
    { key: keys.guest(order.vmid), value: JSON.stringify(record) },
    { key: keys.haResource(order.vmid), value: JSON.stringify(resource) },
    ...(tombstone === null ? [] : [{ key: keys.guestTombstone(order.vmid), value: null }]),
  ];
  const absent = [keys.guest(order.vmid), keys.haResource(order.vmid)].map((key) => ({ key, modRevision: 0n }));
  return (await store.commit(absent, writes)).kind;
}
