import { AppError } from '#base/error.ts';
import { comparePoints, type ReplicaPoint } from '#core/guest/guest-record.ts';
import type { ReplicationJob } from '#core/replica/records.ts';
import { planRetention } from '#core/replica/retention.ts';
import { formatPoint, refuseSender } from '#core/replica/send-plan.ts';
import {
  createPrimary,
  createReplica,
  demoteToPoint,
  layersAt,
  newestPoint,
  noteHandedOver,
  openForWriting,
  promoteTo,
  releaseTail,
  sealPoint,
  toPromotable,
  type Depths,
  type HandedPoint,
  type KeptPoint,
  type Layer,
  type Manifest,
} from '#core/storage/manifest.ts';
import { closeMerge, openForMerge, planMerge } from '#core/storage/merge-plan.ts';
import type { Rules } from '#sim/rules.ts';

/** Blocks of the one disk of a simulated guest. Few, so that they are often overwritten. */
export const blockCount = 8;
export const diskName = 'disk0';
export const diskSize = [{ name: diskName, sizeBytes: blockCount }];

/** What a whole disk reads as: for each block the number of the write that it holds, 0 for none. */
export type Image = readonly number[];

/** A point on its way in. */
export type Session = { vmid: number; sender: string; point: ReplicaPoint; blocks: Map<number, number>; base: Manifest | null };

type Held = { manifest: Manifest; files: Map<string, Map<number, number>>; damaged: boolean };

/**
 * The disks of one node, kept over power cuts. Manifests are the real ones, changed by the real functions; a layer's file is a map
 * from block to write. Each method is one commit of the manifest: whatever happens before it leaves the copy as it was.
 */
export class SimDisk {
  readonly node: string;
  /** After every change of what is held of a guest; `what` in words. */
  onChange: (vmid: number, what: string) => void = () => {};
  /** Grows with each copy that comes, goes or changes its role. */
  roles = 0;
  private readonly rules: Pick<Rules, 'demote' | 'dropPoints'>;
  private readonly held = new Map<number, Held>();
  private readonly sessions = new Map<number, Session>();

  constructor(node: string, rules: Pick<Rules, 'demote' | 'dropPoints'>) {
    this.node = node;
    this.rules = rules;
  }

  guests(): number[] {
    return [...this.held.keys()];
  }

  manifest(vmid: number): Manifest | null {
    return this.held.get(vmid)?.manifest ?? null;
  }

  imageAt(vmid: number, depths: Depths): Image {
    const held = this.held.get(vmid);
    const image = emptyImage();
    if (held === undefined) return image;
    for (const { layers } of layersAt(held.manifest, depths))
      for (const layer of layers) putOn(image, held.files.get(layer.file));
    return image;
  }

  /** The image that a primary's guest sees, or that the newest point of a replica makes. */
  top(vmid: number): Image {
    const held = this.held.get(vmid);
    if (held === undefined) return [];
    const image = emptyImage();
    for (const { layers } of held.manifest.disks) for (const layer of layers) putOn(image, held.files.get(layer.file));
    return image;
  }

  listPrimaries(): { vmid: number; generation: number }[] {
    return [...this.held.values()].flatMap(({ manifest: { role, vmid, generation } }) =>
      role === 'primary' ? [{ vmid, generation }] : [],
    );
  }

  create(vmid: number): void {
    const file = `${diskName}-g1.raw`;
    const manifest = createPrimary(vmid, 1, [{ name: diskName, layers: [makeLayer(file, 'raw')] }]);
    this.held.set(vmid, { manifest, files: new Map([[file, new Map()]]), damaged: false });
    this.roles += 1;
    this.onChange(vmid, 'created');
  }

  /** A guest's write to its own disk. */
  write(vmid: number, block: number, write: number): void {
    const held = this.held.get(vmid);
    const file = held?.manifest.disks[0]?.layers.at(-1)?.file;
    if (held === undefined || file === undefined) return;
    held.files.get(file)?.set(block, write);
  }

  isDamaged(vmid: number): boolean {
    return this.held.get(vmid)?.damaged === true;
  }

  damage(vmid: number): boolean {
    const held = this.held.get(vmid);
    if (held === undefined || held.manifest.role === 'primary' || held.damaged) return false;
    held.damaged = true;
    return true;
  }

  /** As promoteReplica of the dir driver does it. Raises AppError missing/conflict/invalid before anything was changed. */
  promote(vmid: number, generation: number, atLeast: ReplicaPoint): KeptPoint {
    this.sessions.delete(vmid);
    const held = this.require(vmid, 'promote');
    const manifest = toPromotable(held.manifest, atLeast);
    if (manifest.role === 'primary') {
      if (manifest.generation === generation && manifest.promotedFrom !== null) return manifest.promotedFrom;
      throw new AppError('conflict', `promote guest ${vmid}: a primary copy of generation ${manifest.generation} lies here`);
    }
    if (generation <= manifest.generation) throw new AppError('conflict', `promote guest ${vmid}: generation was seen`);
    const point = newestPoint(manifest);
    if (point === null) throw new AppError('missing', `promote guest ${vmid}: no whole point`);
    if (comparePoints(point, atLeast) < 0) throw new AppError('conflict', `promote guest ${vmid}: older than was asked for`);
    if (held.damaged) throw new AppError('invalid', `promote guest ${vmid}: the copy does not verify`);
    const file = `${diskName}-g${generation}-own.qcow2`;
    held.files.set(file, new Map());
    held.manifest = promoteTo(manifest, generation, point, [{ disk: diskName, layer: makeLayer(file, 'qcow2') }]);
    this.roles += 1;
    this.onChange(vmid, `promoted from ${formatPoint(point)} to generation ${generation}`);
    return point;
  }

  /** Without a tail, at that very point, when it was handed over at `identicalTo`. */
  demote(vmid: number, identicalTo: ReplicaPoint | null, nowWallMs: number): void {
    this.sessions.delete(vmid);
    const held = this.require(vmid, 'demote');
    if (held.manifest.role === 'replica') return;
    const atPoint = identicalTo === null ? null : demoteToPoint(held.manifest, identicalTo, nowWallMs);
    held.manifest = atPoint ?? this.rules.demote(held.manifest, null);
    this.roles += 1;
    this.onChange(vmid, atPoint === null ? 'demoted' : 'demoted to its last point');
  }

  /** Notes that others hold all that this primary copy holds. Raises AppError conflict when it is not that copy. */
  noteHandedOver(vmid: number, generation: number, last: HandedPoint): void {
    const held = this.require(vmid, 'hand over');
    if (held.manifest.role !== 'primary' || held.manifest.generation !== generation) {
      throw new AppError('conflict', `hand over guest ${vmid}: not its primary copy of generation ${generation}`);
    }
    held.manifest = noteHandedOver(held.manifest, last);
    this.roles += 1;
    this.onChange(vmid, 'handed over');
  }

  /** A person lets a tail go. */
  releaseTail(vmid: number, name: string): void {
    const held = this.held.get(vmid);
    if (held === undefined) return;
    held.manifest = releaseTail(held.manifest, name);
    this.onChange(vmid, `released ${name}`);
  }

  remove(vmid: number): void {
    this.sessions.delete(vmid);
    this.roles += 1;
    if (this.held.delete(vmid)) this.onChange(vmid, 'removed');
  }

  openPrimary(vmid: number, generation: number): void {
    const held = this.require(vmid, 'start');
    const { manifest } = held;
    if (manifest.role === 'primary' && manifest.generation === generation) {
      held.manifest = openForWriting(manifest);
      return;
    }
    throw new AppError('conflict', `start guest ${vmid}: generation ${generation} was ordered, another lies here`);
  }

  reserveSeq(vmid: number, generation: number, count: number): number {
    const held = this.require(vmid, 'number points of');
    if (held.manifest.role !== 'primary' || held.manifest.generation !== generation) {
      throw new AppError('conflict', `number points of guest ${vmid}: not its primary copy of generation ${generation}`);
    }
    held.manifest = { ...held.manifest, reservedSeq: held.manifest.reservedSeq + count };
    return held.manifest.reservedSeq - count + 1;
  }

  /** Opens a new point; one that was on its way before is dropped. Raises AppError conflict for a stale sender. */
  begin(vmid: number, sender: string, point: ReplicaPoint, trustsAnybody: boolean): Session {
    this.sessions.delete(vmid);
    const held = this.held.get(vmid);
    const manifest = held?.manifest ?? null;
    const seen = manifest && { role: manifest.role, generation: manifest.generation, newest: newestPoint(manifest) };
    const refusal = trustsAnybody && manifest?.role === 'replica' ? null : refuseSender(point, seen);
    if (refusal !== null) throw new AppError('conflict', `take in guest ${vmid} from ${sender}: ${refusal}`);
    if (held !== undefined && point.generation > held.manifest.generation) {
      held.manifest = { ...held.manifest, generation: point.generation };
    }
    const session: Session = { vmid, sender, point, blocks: new Map(), base: held?.manifest ?? null };
    this.sessions.set(vmid, session);
    return session;
  }

  seal(session: Session, about: Omit<KeptPoint, 'depths' | 'generation' | 'seq'>): void {
    const { vmid, point } = session;
    if (this.sessions.get(vmid) !== session)
      throw new AppError('conflict', `seal ${formatPoint(point)}: it was closed meanwhile`);
    this.sessions.delete(vmid);
    const held = this.held.get(vmid) ?? { manifest: createReplica(vmid, point.generation), files: new Map(), damaged: false };
    const isFirst = held.manifest.disks.length === 0;
    const file = `${diskName}-g${point.generation}-${point.seq}.${isFirst ? 'raw' : 'qcow2'}`;
    held.files.set(file, new Map(session.blocks));
    const layer = { disk: diskName, layer: makeLayer(file, isFirst ? 'raw' : 'qcow2') };
    const base = { ...held.manifest, generation: Math.max(held.manifest.generation, point.generation) };
    held.manifest = sealPoint(base, [layer], { ...point, ...about });
    if (about.lastCycle.kind === 'compare') held.damaged = false;
    this.held.set(vmid, held);
    this.onChange(vmid, `sealed ${formatPoint(point)} from ${session.sender}`);
  }

  abort(session: Session): void {
    if (this.sessions.get(session.vmid) === session) this.sessions.delete(session.vmid);
  }

  /** Everything on its way is forgotten: the agent ended. */
  forgetSessions(): void {
    this.sessions.clear();
  }

  /** Drops points past the retention rule and merges layers until nothing is left to do. */
  thin(vmid: number, keep: ReplicationJob['keep']): void {
    const held = this.held.get(vmid);
    if (held === undefined || held.manifest.role !== 'replica' || this.sessions.has(vmid)) return;
    held.manifest = this.rules.dropPoints(held.manifest, planRetention(held.manifest.points, keep));
    for (let step = planMerge(held.manifest); step !== null; step = planMerge(held.manifest)) {
      const lower = held.files.get(step.lower.file);
      for (const [block, write] of held.files.get(step.upper.file) ?? []) lower?.set(block, write);
      held.files.delete(step.upper.file);
      held.manifest = closeMerge(openForMerge(held.manifest, step), step, null);
    }
    this.onChange(vmid, 'thinned');
  }

  private require(vmid: number, what: string): Held {
    const held = this.held.get(vmid);
    if (held === undefined) throw new AppError('missing', `${what} guest ${vmid}: no copy lies on ${this.node}`);
    return held;
  }
}

function emptyImage(): number[] {
  return Array<number>(blockCount).fill(0);
}

function putOn(image: number[], file: ReadonlyMap<number, number> | undefined): void {
  if (file !== undefined) for (const [block, write] of file) image[block] = write;
}

function makeLayer(file: string, format: Layer['format']): Layer {
  return { file, format, sizeBytes: blockCount, sealed: null };
}
