import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { formatSnapshotTime } from '#core/backup/names.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys } from '#core/ha/keys.ts';
import type { RestoreOrder } from '#core/ha/requests.ts';
import type { Arrival } from '#core/storage/arrival.ts';
import type { Arrivals, GuestStorage, NewDisk } from '#ports/guest-storage.ts';
import type { Store } from '#ports/store.ts';
import type { GuestLoop } from '#programs/agent/guest-loop.ts';
import type { LiveRestores } from '#programs/agent/live-restores.ts';
import type { NewGuest } from '#programs/agent/requests.ts';
import { newGuestConfig, openOrdered } from '#programs/agent/restore-desk.ts';
import type { TellProgress } from '#programs/agent/tell-progress.ts';
import { readRecord } from '#programs/agent/world.ts';

export type RestoreLiveParts = {
  self: string;
  store: Store;
  storage: Pick<GuestStorage, 'arrivals'>;
  guests: Pick<GuestLoop, 'exclusively' | 'running'>;
  live: LiveRestores;
  /** Of the request. */
  id: string;
  tell: TellProgress;
  signal: AbortSignal;
  /** Makes the disks by `make`, then the record. */
  create: (guest: NewGuest) => Promise<string[]>;
  /** Removes the guest, which does not run, with its disks. */
  remove: (vmid: number) => Promise<void>;
  log: (text: string) => void;
};

const what = 'restore live as';

/**
 * Makes a guest whose disks are empty, serves them what the backup holds, and has it started like any other; done when all has come in. A repeated
 * request finds by its number what it began. When it is withdrawn meanwhile, the guest goes.
 */
export async function restoreLive(parts: RestoreLiveParts, order: RestoreOrder): Promise<string[]> {
  const { vmid } = order;
  const { arrivals } = parts.storage;
  if (arrivals === null) {
    throw new AppError(
      'unsupported',
      `${what} guest ${vmid}: ${parts.self} keeps its guests in a pool, where that is not done; nothing was changed. Leave --live away`,
    );
  }
  const arrival =
    (await findMade(parts, vmid, arrivals)) ?? (await parts.guests.exclusively(vmid, () => make(parts, order, arrivals)));
  try {
    await parts.live.follow(vmid, parts.tell, parts.signal);
  } catch (error) {
    if (parts.signal.aborted) await takeAway(parts, vmid);
    throw error;
  }
  const { from, target } = arrival;
  return [
    `guest ${vmid} is complete on ${parts.self}; the other nodes get their copies from now on`,
    `restored from vm/${from.vmid}/${formatSnapshotTime(from.atSeconds)} on ${target}`,
  ];
}

/** What an earlier try of the same request made of disks; null: nothing. */
async function findBegun({ id }: RestoreLiveParts, vmid: number, arrivals: Arrivals): Promise<Arrival | null> {
  return (await arrivals.list()).find((copy) => copy.vmid === vmid && copy.arrival.request === id)?.arrival ?? null;
}

/** The same when there is the guest as well: whatever is done with it now, there is nothing left to make. */
async function findMade(parts: RestoreLiveParts, vmid: number, arrivals: Arrivals): Promise<Arrival | null> {
  const record = await readRecord<GuestRecord>(parts.store, keys.guest(vmid));
  return record?.value.home === parts.self ? await findBegun(parts, vmid, arrivals) : null;
}

/** The guest's disks, what serves them, and its record, in this order; what an earlier try of the same request made is taken up. */
async function make(parts: RestoreLiveParts, order: RestoreOrder, arrivals: Arrivals): Promise<Arrival> {
  const { vmid } = order;
  const begun = await findBegun(parts, vmid, arrivals);
  await using backup = await openOrdered(parts.store, { ...order, from: begun?.from ?? order.from }, parts);
  const config = newGuestConfig(order, backup);
  const disks: Arrival['disks'] = {};
  for (const { name, sizeBytes } of config.disks) {
    const { sizeBytes: held, ...index } = await backup.measure(name);
    if (held !== sizeBytes)
      throw new AppError(
        'invalid',
        `${what} guest ${vmid}: ${name} has ${held} bytes in the backup, and ${sizeBytes} by its configuration`,
      );
    disks[name] = index;
  }
  const from = { vmid: order.from.vmid, atSeconds: backup.snapshot.atSeconds };
  const arrival: Arrival = { request: parts.id, target: order.target, from, disks, isComplete: false, isNamed: false };
  const createDisks = (made: NewDisk[]): Promise<void> => arrivals.create(vmid, 1, made, arrival);
  try {
    await parts.create({
      vmid,
      name: order.name ?? backup.guest.name,
      config,
      imports: {},
      want: order.want,
      make: createDisks,
      beforeRecord: () => parts.live.begin(vmid),
    });
  } catch (error) {
    await parts.live.end(vmid); // should there be a guest after all, its copy has it begun again
    throw error;
  }
  return begun ?? arrival;
}

/** Whoever asked does not want it any more. Tried until it is done: nobody else would. */
async function takeAway({ self, id, store, guests, live, remove, log }: RestoreLiveParts, vmid: number): Promise<void> {
  for (;;) {
    try {
      // The guest has written meanwhile: what the view says is not enough to destroy that.
      if ((await readRecord(store, keys.request(id))) !== null) return log(`guest ${vmid}: its restore is still asked for`);
      const record = await readRecord<GuestRecord>(store, keys.guest(vmid));
      if (record !== null && record.value.home !== self) return log(`guest ${vmid}: its home is ${record.value.home} by now`);
      await guests.exclusively(vmid, async () => {
        await guests
          .running()
          .find((guest) => guest.vmid === vmid)
          ?.kill();
        await live.end(vmid);
        await remove(vmid);
      });
      return log(`guest ${vmid}: its restore was withdrawn; nothing of it is left`);
    } catch (error) {
      if (!isAppError(error)) throw error;
      log(`guest ${vmid}: its restore was withdrawn, but it is still there: ${formatErrorChain(error)}`);
      await new Promise((resolve) => setTimeout(resolve, limits.agentRoundMs).unref());
    }
  }
}
