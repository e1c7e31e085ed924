import { comparePoints, type GuestRecord, type ReplicaPoint } from '#core/guest/guest-record.ts';
import type { Permit } from '#core/ha/records.ts';
import type { Cluster } from '#sim/cluster.ts';
import type { Image } from '#sim/disk.ts';
import type { Host, Qemu } from '#sim/host.ts';
import { keys } from '#sim/known-keys.ts';

type Fail = (invariant: string, text: string) => void;

/** S13: a guest that is given up has one owner at each instant, and every block that was written before is there afterwards. */
export class MoveChecks {
  private readonly cluster: Cluster;
  private readonly fail: Fail;
  /** What the disks held when the guest was given up. */
  private readonly given = new Map<number, { point: ReplicaPoint; image: Image }>();

  constructor(cluster: Cluster, fail: Fail) {
    this.cluster = cluster;
    this.fail = fail;
  }

  noteGuest(before: GuestRecord, next: GuestRecord): void {
    const { vmid } = next;
    const isNew = next.givenUp !== undefined && before.givenUp?.atMs !== next.givenUp.atMs;
    if (isNew && next.givenUp !== undefined) this.noteGivenUp(next, next.givenUp);
    const moves = before.order?.kind === 'move';
    if (next.home !== before.home && moves) {
      const permit = this.cluster.store.read<Permit>(keys.nodePermit(before.home))?.value;
      const isGood = permit?.state === 'granted' && permit.epoch === before.order?.nodeEpoch;
      if (isGood) this.fail('S13', `guest ${vmid} belongs to ${next.home} before ${before.home} gave it up`);
    }
  }

  /** The guest is let run. */
  noteStart(host: Host, { vmid, generation }: Qemu): void {
    const record = this.cluster.store.read<GuestRecord>(keys.guest(vmid))?.value;
    if (record?.home === host.name && record.generation === generation && record.givenUp !== undefined)
      this.fail('S13', `guest ${vmid} starts on ${host.name}, which gave it up`);
  }

  /** A manifest was committed. */
  noteDisk(host: Host, vmid: number, what: string): void {
    const manifest = host.disk.manifest(vmid);
    if (manifest?.role !== 'primary' || !what.startsWith('promoted')) return;
    for (const other of this.cluster.hosts) {
      const theirs = other === host ? null : other.disk.manifest(vmid);
      if (theirs?.role === 'primary' && theirs.generation === manifest.generation)
        this.fail('S13', `${host.name} and ${other.name} both own generation ${manifest.generation} of guest ${vmid}`);
    }
    const given = this.given.get(vmid);
    const from = manifest.promotedFrom;
    if (given === undefined || from === null || comparePoints(given.point, from) !== 0) return;
    const image = host.disk.imageAt(vmid, from.depths);
    if (image.some((write, block) => write !== given.image[block]))
      this.fail('S13', `guest ${vmid} had ${given.image.join()} when it was given up and goes on with ${image.join()}`);
  }

  private noteGivenUp({ vmid, home }: GuestRecord, { point }: { point: ReplicaPoint }): void {
    const host = this.cluster.host(home);
    this.given.set(vmid, { point, image: host.disk.top(vmid) });
    const qemu = host.qemus.get(vmid);
    if (qemu?.alive === true) this.fail('S13', `guest ${vmid} is given up by ${home} while its QEMU there is ${qemu.run}`);
  }
}
