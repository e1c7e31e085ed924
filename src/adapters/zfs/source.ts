import type { Readable } from 'node:stream';
import { AppError } from '#base/error.ts';
import type { ReplicaPoint } from '#core/guest/guest-record.ts';
import { comparePoints } from '#core/guest/guest-record.ts';
import {
  destroyBookmark,
  destroySnapshots,
  holdSnapshots,
  listPools,
  sendPoint,
  sendRest,
  takeBookmark,
  takeSnapshot,
} from '#core/storage/zfs/commands.ts';
import type { Dataset } from '#core/storage/zfs/listing.ts';
import type { ZfsManifest } from '#core/storage/zfs/manifest.ts';
import {
  diskDataset,
  parseTargetBookmark,
  pointBookmark,
  poolOf,
  snapshotName,
  targetBookmark,
} from '#core/storage/zfs/names.ts';
import { noNewCopiesPercent, refuseCopy } from '#core/storage/zfs/pool-health.ts';
import { parsePoolList, type PoolUse } from '#core/storage/zfs/pool-status.ts';
import { planSourcePrune, type PrunePlan } from '#core/storage/zfs/prune-plan.ts';
import type { DiskBase } from '#core/storage/zfs/send-plan.ts';
import type { Copies, ZfsStorageOptions } from './copies.ts';
import type { GuestFacts } from './guest-facts.ts';
import { cutTag, heldTag, releaseHolds } from './holds.ts';
import { openSend, runZfs, type ZfsStream } from './zfs-command.ts';

/** A primary copy with all that its disks have been. */
export type SourceCopy = { manifest: ZfsManifest; disks: { name: string; sizeBytes: number; dataset: Dataset }[] };

/** What the home of a guest does with its snapshots. */
export type ZfsSource = {
  read(vmid: number, generation: number): Promise<SourceCopy>;
  /** One snapshot of all disks at the same instant. Raises AppError busy when the pool is too full for another. */
  take(vmid: number, point: ReplicaPoint, about: { atMs: number; kind: 'crash' | 'frozen' }): Promise<void>;
  openPoint(vmid: number, disk: string, point: ReplicaPoint, base: DiskBase['base']): ZfsStream<Readable>;
  openRest(token: string): ZfsStream<Readable>;
  /** Keeps what a cut stream needs to go on, whatever is pruned meanwhile. */
  holdCut(vmid: number, point: ReplicaPoint, node: string): Promise<void>;
  /** A node holds the point now: remember it, and drop what nobody needs any more. `peers`: all other nodes. */
  confirm(vmid: number, generation: number, node: string, point: ReplicaPoint, peers: string[]): Promise<void>;
  /** The newest point that each node is known to hold. */
  readConfirmed(vmid: number): Promise<Map<string, ReplicaPoint>>;
};

export function createSource(deps: { options: ZfsStorageOptions; copies: Copies }): ZfsSource {
  const { options, copies } = deps;
  const { root } = options;
  const disksOf = async (vmid: number): Promise<string[]> => {
    const manifest = await copies.require(vmid, 'replicate');
    return manifest.disks.map((disk) => diskDataset(root, vmid, disk.name));
  };

  return {
    async read(vmid, generation) {
      const manifest = await copies.requirePrimary(vmid, generation, 'replicate');
      const facts = await copies.facts(vmid);
      const disks = manifest.disks.map(({ name, sizeBytes }) => {
        const dataset = facts.live.get(name);
        if (dataset === undefined)
          throw new AppError('missing', `replicate guest ${vmid}: there is no ${diskDataset(root, vmid, name)}`);
        return { name, sizeBytes, dataset };
      });
      return { manifest, disks };
    },
    async take(vmid, point, { atMs, kind }) {
      const refusal = refuseCopy(await readPoolUse(root), false);
      if (refusal !== null) throw new AppError('busy', `take a point of guest ${vmid}: ${refusal}`);
      await runZfs(
        takeSnapshot(await disksOf(vmid), snapshotName(point), { 'holdfast:at': String(atMs), 'holdfast:kind': kind }),
      );
    },
    openPoint(vmid, disk, point, base) {
      return openSend(sendPoint(diskDataset(root, vmid, disk), snapshotName(point), base));
    },
    openRest: (token) => openSend(sendRest(token)),
    async holdCut(vmid, point, node) {
      const name = snapshotName(point);
      const { live } = await copies.facts(vmid);
      const held = [...live.values()].filter((disk) =>
        disk.versions.some((version) => version.name === name && version.holds === 0),
      );
      if (held.length > 0)
        await runZfs(
          holdSnapshots(
            held.map((disk) => disk.name),
            name,
            cutTag(node),
          ),
        );
    },
    async confirm(vmid, generation, node, point, peers) {
      const before = await copies.facts(vmid);
      // What was held for its stream, and what was held while this node was a target: a home's own rules of pruning spare what is needed.
      await releaseHolds(before, (tag) => tag === cutTag(node) || tag === heldTag);
      for (const disk of before.live.values()) {
        const has = (name: string): boolean => disk.versions.some((version) => version.name === name);
        const isHere = has(snapshotName(point)) && !has(targetBookmark(node, point));
        if (isHere) await runZfs(takeBookmark(disk.name, snapshotName(point), targetBookmark(node, point)));
      }
      const manifest = await copies.requirePrimary(vmid, generation, 'replicate');
      const facts = await copies.facts(vmid);
      const use = await readPoolUse(root);
      const known = confirmedBy(facts);
      const confirmed = new Map(peers.map((peer) => [peer, known.get(peer) ?? null]));
      const about = {
        generation,
        confirmed,
        inFlight: [],
        promotedFrom: manifest.promotedFrom,
        isTight: use.usedPercent >= noNewCopiesPercent,
      };
      for (const disk of facts.live.values()) await performPrune(disk.name, planSourcePrune(disk.versions, about));
    },
    readConfirmed: async (vmid) => confirmedBy(await copies.facts(vmid)),
  };
}

/** The points that bookmarks on every disk tell of. */
function confirmedBy(facts: GuestFacts): Map<string, ReplicaPoint> {
  const found = new Map<string, ReplicaPoint>();
  const [first, ...others] = [...facts.live.values()];
  for (const version of first?.versions ?? []) {
    const target = version.kind === 'bookmark' ? parseTargetBookmark(version.name) : null;
    if (target === null || !others.every((disk) => disk.versions.some(({ name }) => name === version.name))) continue;
    const known = found.get(target.node);
    if (known === undefined || comparePoints(target.point, known) > 0) found.set(target.node, target.point);
  }
  return found;
}

/** Bookmarks first, then the snapshots that they stand for. */
export async function performPrune(dataset: string, plan: PrunePlan): Promise<void> {
  for (const { name, bookmark } of plan.snapshots) {
    if (bookmark === null) continue;
    await runZfs(takeBookmark(dataset, name, pointBookmark(bookmark))).catch((error: unknown) => {
      if (!(error instanceof AppError) || error.kind !== 'conflict') throw error; // it is there already
    });
  }
  if (plan.snapshots.length > 0)
    await runZfs(
      destroySnapshots(
        dataset,
        plan.snapshots.map(({ name }) => name),
      ),
    );
  for (const name of plan.bookmarks) await runZfs(destroyBookmark(dataset, name));
}

/** How full the pool is that `root` lies in. */
export async function readPoolUse(root: string): Promise<PoolUse> {
  const pool = poolOf(root);
  const use = parsePoolList(await runZfs(listPools())).find((entry) => entry.name === pool);
  if (use !== undefined) return use;
  throw new AppError(
    'missing',
    `look at pool ${pool}: it is not imported. See: holdfast pool status; holdfast pool import ${pool}`,
  );
}
