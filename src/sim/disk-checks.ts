import { comparePoints, type GuestRecord, type ReplicaPoint } from '#core/guest/guest-record.ts';
import { formatPoint } from '#core/replica/send-plan.ts';
import { newestPoint, tailName } from '#core/storage/manifest.ts';
import type { Cluster } from '#sim/cluster.ts';
import type { Image, Session } from '#sim/disk.ts';
import type { Host, Qemu } from '#sim/host.ts';
import { keys } from '#sim/known-keys.ts';

type Home = { node: string; generation: number; untilMs: number };
type Seen = { role: 'primary' | 'replica'; newest: ReplicaPoint | null };

/** Points whose true image is remembered, for each guest. */
const keptImages = 500;

/** What must hold of disks: S6 (prefix of the one history), S7 (nothing written is lost), S8 (stale senders), S9 (the common base). */
export class DiskChecks {
  private readonly cluster: Cluster;
  private readonly fail: (invariant: string, text: string) => void;
  private readonly homes = new Map<number, Home[]>();
  private readonly images = new Map<number, Map<string, Image>>();
  /** What each node's own guest had written when it last wrote, for each generation that was written there. */
  private readonly owned = new Map<string, Map<number, Image>>();
  /** The last point of what a node handed over; and those nodes' generations from whose end another home has begun. */
  private readonly handed = new Map<string, ReplicaPoint>();
  private readonly begun = new Set<string>();
  private readonly seen = new Map<string, Seen>();

  constructor(cluster: Cluster, fail: (invariant: string, text: string) => void) {
    this.cluster = cluster;
    this.fail = fail;
  }

  noteHome(before: GuestRecord | undefined, next: GuestRecord | undefined): void {
    const vmid = next?.vmid ?? before?.vmid;
    if (vmid === undefined) return;
    const homes = this.homes.get(vmid) ?? [];
    const last = homes.at(-1);
    const isOpen = last?.untilMs === Number.POSITIVE_INFINITY;
    if (next !== undefined && isOpen && last.node === next.home && last.generation === next.generation) return;
    if (last !== undefined && isOpen) last.untilMs = this.cluster.engine.nowMs;
    if (next !== undefined) homes.push({ node: next.home, generation: next.generation, untilMs: Number.POSITIVE_INFINITY });
    this.homes.set(vmid, homes.slice(-20));
  }

  notePoint(vmid: number, point: ReplicaPoint, image: Image): void {
    const images = this.images.get(vmid) ?? new Map<string, Image>();
    images.set(formatPoint(point), image);
    if (images.size > keptImages) images.delete(images.keys().next().value ?? '');
    this.images.set(vmid, images);
  }

  noteWrite(host: Host, qemu: Qemu): void {
    // It was taken back, and goes on here.
    this.begun.delete(`${qemu.vmid} ${host.name} ${qemu.generation}`);
    this.own(host, qemu.vmid, qemu.generation);
  }

  checkSeal(host: Host, session: Session, askedAtMs: number): void {
    const { vmid, sender, point } = session;
    const name = `point ${formatPoint(point)} of guest ${vmid}`;
    const home = this.homes.get(vmid)?.findLast((entry) => entry.node === sender && entry.generation === point.generation);
    if (home === undefined || home.untilMs < askedAtMs) {
      this.fail('S8', `${host.name} takes in ${name} from ${sender}, which is no longer its home`);
    }
    const truth = this.images.get(vmid)?.get(formatPoint(point));
    if (truth !== undefined && !sameImage(truth, host.disk.top(vmid))) {
      this.fail(
        'S6',
        `${name} on ${host.name} is not what the guest's disk was: ${host.disk.top(vmid).join()} for ${truth.join()}`,
      );
    }
  }

  /** After each commit of a manifest. */
  checkDisk(host: Host, vmid: number, what: string): void {
    const key = `${host.name} ${vmid}`;
    const manifest = host.disk.manifest(vmid);
    const before = this.seen.get(key);
    if (manifest === null) {
      if (this.cluster.store.read(keys.guestTombstone(vmid)) === null) {
        if (this.owned.has(key))
          this.fail('S7', `the copy of guest ${vmid} on ${host.name} is removed and the guest was not deleted`);
      }
      this.owned.delete(key);
      this.seen.delete(key);
      return;
    }
    const newest = newestPoint(manifest);
    const now: Seen = { role: manifest.role, newest: newest && { generation: newest.generation, seq: newest.seq } };
    if (before?.role === 'replica' && before.newest !== null && now.role === 'replica') {
      const gone = now.newest === null || comparePoints(now.newest, before.newest) < 0;
      if (gone)
        this.fail('S6', `the copy of guest ${vmid} on ${host.name} goes back from ${formatPoint(before.newest)} (${what})`);
      if (what === 'thinned' && (now.newest === null || comparePoints(now.newest, before.newest) !== 0)) {
        this.fail('S9', `thinning the copy of guest ${vmid} on ${host.name} took its newest point`);
      }
    }
    this.seen.set(key, now);
    // A person let it go.
    if (what.startsWith('released ')) this.owned.get(key)?.delete(generationOf(what));
    if (what.startsWith('promoted')) this.noteBegin(host, vmid);
    if (what === 'demoted to its last point' && newest !== null)
      this.handed.set(`${key} ${newest.generation}`, { generation: newest.generation, seq: newest.seq });
    if (what === 'thinned' || what.startsWith('promoted')) this.checkTop(host, vmid, what);
    this.checkOwned(host, vmid, what);
  }

  private checkTop(host: Host, vmid: number, what: string): void {
    const manifest = host.disk.manifest(vmid);
    const point = manifest?.role === 'primary' ? manifest.promotedFrom : manifest && newestPoint(manifest);
    if (point === null || point === undefined) return;
    const truth = this.images.get(vmid)?.get(formatPoint(point));
    if (truth === undefined || sameImage(truth, host.disk.imageAt(vmid, point.depths))) return;
    this.fail('S6', `point ${formatPoint(point)} of guest ${vmid} on ${host.name} has changed (${what})`);
  }

  /** A home begins from a point that somebody handed over: what that one had written is in its care now. */
  private noteBegin(host: Host, vmid: number): void {
    const manifest = host.disk.manifest(vmid);
    const point = manifest?.role === 'primary' ? manifest.promotedFrom : null;
    if (manifest === null || point === null) return;
    for (const other of this.cluster.hosts) {
      const image = this.owned.get(`${other.name} ${vmid}`)?.get(point.generation);
      if (image === undefined || !sameImage(image, host.disk.imageAt(vmid, point.depths))) continue;
      this.begun.add(`${vmid} ${other.name} ${point.generation}`);
      this.own(host, vmid, manifest.generation);
    }
  }

  private own(host: Host, vmid: number, generation: number): void {
    const key = `${host.name} ${vmid}`;
    const generations = this.owned.get(key) ?? new Map<number, Image>();
    generations.set(generation, host.disk.top(vmid));
    this.owned.set(key, generations);
  }

  private checkOwned(host: Host, vmid: number, what: string): void {
    const { disk } = host;
    const manifest = disk.manifest(vmid);
    if (manifest === null) return;
    for (const [generation, image] of this.owned.get(`${host.name} ${vmid}`) ?? []) {
      const tail = manifest.leftBehind.find((entry) => entry.name === tailName(generation));
      const own = manifest.role === 'primary' && manifest.generation === generation;
      // Of a guest that was handed over this node keeps the last point, until a home has begun from it.
      const last = this.handed.get(`${host.name} ${vmid} ${generation}`);
      if (this.begun.has(`${vmid} ${host.name} ${generation}`)) continue;
      const kept = last && manifest.points.find((point) => comparePoints(point, last) === 0);
      const held = own ? disk.top(vmid) : (tail ?? kept) === undefined ? null : disk.imageAt(vmid, (tail ?? kept)?.depths ?? {});
      if (held !== null && sameImage(held, image)) continue;
      const how = held === null ? 'are in no kept copy or tail' : `read as ${held.join()} for ${image.join()}`;
      this.fail('S7', `writes of guest ${vmid}, generation ${generation}, on ${host.name} ${how} (${what})`);
    }
  }
}

/** Of a tail's name. */
function generationOf(what: string): number {
  return Number(/-g(\d+)$/.exec(what)?.[1] ?? 0);
}

function sameImage(a: Image, b: Image): boolean {
  return a.length === b.length && a.every((write, block) => write === b[block]);
}
