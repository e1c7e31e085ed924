import { pause } from '#programs/pause.ts';
import { runPaths } from '#programs/replication/paths.ts';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { ReplicaRecord, ReplicationJob } from '#core/replica/records.ts';
import type { Clock } from '#ports/clock.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import { createAnnouncer } from '#programs/replication/announcer.ts';
import { createCycleGate } from '#programs/replication/cycle-gate.ts';
import type { Peer } from '#programs/replication/control-client.ts';
import { startGuestCycles, type GuestCycles, type TargetStatus } from '#programs/replication/guest-cycles.ts';
import { type LastCopies, sendLastPoint } from '#programs/replication/last-point.ts';
import { serveReceiver } from '#programs/replication/receiver.ts';
import type { ReplicationDriver } from '#programs/replication/driver.ts';

export type ReplicationOptions = {
  /** How copies are kept here and how changes travel; all else is the same for every driver. */
  driver: ReplicationDriver;
  /** The node's run folder: the relay's socket and what must not outlive a boot. */
  run: string;
  clock: Clock;
  log: (text: string) => void;
  /** Raises AppError unless `sender` is the guest's home at `generation`, by a linearizable read of the guest's record. */
  authorize: (vmid: number, sender: string, generation: number) => Promise<void>;
  /** Tells the cluster what this node holds; null: nothing of it could be promoted. */
  publish: (vmid: number, record: ReplicaRecord | null) => Promise<void>;
  /** The other nodes with their relays; read anew for each cycle. */
  readPeers: () => Peer[];
  readJob: (vmid: number) => ReplicationJob;
  /** Identity of the guest's configuration, kept with each point. */
  readConfigSha256: (vmid: number) => string;
};

/** Both directions of replication for one node. */
export type Replication = {
  /** Takes in points until `signal` aborts; first cleans up after an earlier process. */
  serve(signal: AbortSignal): Promise<void>;
  /** Between the start of QEMU (-S) and the guest's first instruction. */
  armBitmaps(guest: RunningGuest): Promise<void>;
  /** Sends points to every other node from now on, until stopGuest or the end of its QEMU. Also for guests found running. */
  startGuest(guest: RunningGuest): void;
  /** Returns when no cycle is under way any more. */
  stopGuest(vmid: number): Promise<void>;
  /** A cycle now, to one node or all; returns one line for each. Raises AppError missing when the guest does not run here, or the cycle's error. */
  syncNow(vmid: number, target?: string): Promise<string[]>;
  /**
   * Sends the state of a guest that stands still, for good, to the nodes named (null: to every other one), each under the same point. Its
   * cycles end first; its CPUs stay as they are. Raises AppError when it cannot even be tried.
   */
  sendLast(guest: RunningGuest, targets: string[] | null): Promise<LastCopies>;
  /** Tells the cluster now what this node holds of a guest, if that has changed. Never fails: it is told again later. */
  announce(vmid: number): Promise<void>;
  /** The node was seen again: cycles that wait out a back-off begin at once. */
  notePeerBack(node: string): void;
  status(): { vmid: number; targets: TargetStatus[] }[];
};

export function createReplication(options: ReplicationOptions): Replication {
  const { driver } = options;
  const guests = new Map<number, GuestCycles>();
  const announcer = createAnnouncer(options);
  const gate = createCycleGate(() => options.clock.bootMs());

  async function announceOften(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await announcer.announceAll();
      await pause(limits.replicaAnnounceMs, signal);
    }
  }

  return {
    async serve(signal) {
      await driver.recover();
      const receiver = { ...options, announce: (vmid: number) => announcer.announce(vmid) };
      await Promise.all([serveReceiver(runPaths.replicaService(options.run), receiver, signal), announceOften(signal)]);
    },
    async armBitmaps(guest) {
      const targets = options.readPeers().map((peer) => peer.node);
      await driver.createSender(guest).arm(targets);
    },
    startGuest(guest) {
      if (guests.get(guest.vmid)?.guest === guest) return;
      const before = guests.get(guest.vmid)?.stop() ?? Promise.resolve();
      const cycles = startGuestCycles(guest, { ...options, sender: driver.createSender(guest), gate, before });
      guests.set(guest.vmid, cycles);
      void cycles.ended.then(() => {
        if (guests.get(guest.vmid) === cycles) guests.delete(guest.vmid);
      });
    },
    async stopGuest(vmid) {
      await guests.get(vmid)?.stop();
    },
    async syncNow(vmid, target) {
      const cycles = guests.get(vmid);
      if (cycles === undefined) throw new AppError('missing', `replicate guest ${vmid} now: it does not run on this node`);
      return await cycles.syncNow(target);
    },
    async sendLast(guest, targets) {
      await guests.get(guest.vmid)?.stop();
      return await sendLastPoint(guest, driver.createSender(guest), targets, options);
    },
    announce: (vmid) => announcer.announce(vmid),
    notePeerBack(node) {
      for (const cycles of guests.values()) cycles.notePeerBack(node);
    },
    status: () => [...guests.values()].map((cycles) => ({ vmid: cycles.guest.vmid, targets: cycles.status() })),
  };
}
