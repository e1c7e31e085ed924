import { AppError, formatErrorChain } from '#base/error.ts';
import type { GuestLock } from '#base/guest-lock.ts';
import { formatPoint, refuseSender } from '#core/replica/send-plan.ts';
import type { ReplicationJob } from '#core/replica/records.ts';
import { planRetention } from '#core/replica/retention.ts';
import { createFolder, explainToken, holdSnapshots } from '#core/storage/zfs/commands.ts';
import { parseToken } from '#core/storage/zfs/listing.ts';
import * as manifests from '#core/storage/zfs/manifest.ts';
import type { ZfsManifest } from '#core/storage/zfs/manifest.ts';
import { guestDataset, snapshotName } from '#core/storage/zfs/names.ts';
import { refuseCopy } from '#core/storage/zfs/pool-health.ts';
import { planReplicaPrune } from '#core/storage/zfs/prune-plan.ts';
import type { TargetDisk, ZfsTargetState } from '#core/storage/zfs/send-plan.ts';
import { alignDisks, listAllVersions } from './alignment.ts';
import type { Copies, ZfsStorageOptions } from './copies.ts';
import type { GuestFacts } from './guest-facts.ts';
import { heldTag, releaseHolds } from './holds.ts';
import {
  checkArrived,
  openStreams,
  type AboutPoint,
  type StreamDesk,
  type ZfsIncoming,
  type ZfsIncomingRequest,
} from './incoming.ts';
import { performPrune, readPoolUse } from './source.ts';
import { runZfs } from './zfs-command.ts';

type Session = { request: ZfsIncomingRequest; desk: StreamDesk };

/** The side that copies come to. */
export type ZfsTarget = {
  readState(vmid: number): Promise<ZfsTargetState>;
  /** Opens a new point; one that was on its way before is dropped. Raises AppError conflict for a stale sender and then changes nothing. */
  begin(request: ZfsIncomingRequest): Promise<ZfsIncoming>;
  /** Drops what is on its way; for callers that hold the guest's lock. */
  discard(vmid: number): Promise<void>;
  thin(vmid: number, keep: ReplicationJob['keep']): Promise<void>;
  closeAll(): Promise<void>;
};

export function createTarget(deps: { options: ZfsStorageOptions; copies: Copies; lock: GuestLock }): ZfsTarget {
  const { options, copies, lock } = deps;
  const sessions = new Map<number, Session>();

  async function discard(vmid: number): Promise<void> {
    const session = sessions.get(vmid);
    sessions.delete(vmid);
    await session?.desk.close();
  }

  async function open(request: ZfsIncomingRequest): Promise<Session> {
    const { vmid, peer, point } = request;
    await discard(vmid);
    const found = await copies.read(vmid);
    const seen = found && { role: found.role, generation: found.generation, newest: manifests.newestZfsPoint(found) };
    const what = `take in guest ${vmid} from ${peer}`;
    const refusal = refuseSender(point, seen) ?? refuseCopy(await readPoolUse(options.root), (seen?.newest ?? null) === null);
    if (refusal !== null) throw new AppError('conflict', `${what}: ${refusal}`);
    let manifest = found ?? (await makeReplica(vmid, point.generation));
    if (point.generation > manifest.generation) {
      manifest = { ...manifest, generation: point.generation };
      await copies.commit(manifest);
    }
    const bases = new Map(request.disks.filter((disk) => !disk.isRest).map((disk) => [disk.name, disk.base]));
    if (bases.size > 0) await alignDisks(deps, manifest, bases);
    const { live } = await copies.facts(vmid);
    const session = { request, desk: await openStreams(options, request, (disk) => live.has(disk)) };
    sessions.set(vmid, session);
    return session;
  }

  async function makeReplica(vmid: number, generation: number): Promise<ZfsManifest> {
    const manifest = manifests.createZfsReplica(vmid, generation);
    if (!(await copies.unfinished()).includes(vmid)) {
      await runZfs(createFolder(guestDataset(options.root, vmid), { parents: false, isUnfinished: true }));
    }
    await copies.commit(manifest);
    return manifest;
  }

  async function seal(session: Session, about: AboutPoint): Promise<void> {
    const { request, desk } = session;
    const { vmid, point } = request;
    if (sessions.get(vmid) !== session) {
      throw new AppError('conflict', `seal ${formatPoint(point)} of guest ${vmid} from ${request.peer}: it was closed meanwhile`);
    }
    try {
      const facts = await copies.facts(vmid);
      const guidOf = (disk: string, name: string): string | null =>
        facts.live.get(disk)?.versions.find((version) => version.kind === 'snapshot' && version.name === name)?.guid ?? null;
      checkArrived(request, guidOf);
      const datasets = request.disks.flatMap(({ name }) => facts.live.get(name) ?? []);
      const free = datasets.filter(
        (disk) => !disk.versions.some((version) => version.name === snapshotName(point) && version.holds > 0),
      );
      if (free.length > 0)
        await runZfs(
          holdSnapshots(
            free.map((disk) => disk.name),
            snapshotName(point),
            heldTag,
          ),
        );
      const manifest = await copies.require(vmid, 'seal');
      const guids = Object.fromEntries(request.disks.map((disk) => [disk.name, disk.to]));
      const disks = request.disks.map(({ name, sizeBytes }) => ({ name, sizeBytes }));
      const sealed = manifests.sealZfsPoint({ ...manifest, anchors: request.anchors }, disks, { ...point, guids, ...about });
      await copies.commit(sealed);
      // Those on older points, and what a crash left of them.
      await releaseHolds(facts, (tag) => tag === heldTag, snapshotName(point)).catch((error: unknown) => {
        // The point is committed; what is held too long is only space, and is let go with the next one.
        options.log(`guest ${vmid}: letting go of older points failed: ${formatErrorChain(error)}`);
      });
    } finally {
      sessions.delete(vmid);
      await desk.close();
    }
  }

  async function thin(vmid: number, keep: ReplicationJob['keep']): Promise<void> {
    const manifest = await copies.read(vmid);
    if (manifest === null || manifest.role !== 'replica') return;
    const kept = manifests.dropZfsPoints(manifest, planRetention(manifest.points, keep));
    if (kept.points.length !== manifest.points.length) await copies.commit(kept);
    const facts = await copies.facts(vmid);
    for (const disk of facts.live.values()) {
      await performPrune(disk.name, planReplicaPrune(disk.versions, { points: kept.points, anchors: kept.anchors }));
    }
  }

  return {
    async readState(vmid) {
      const manifest = await copies.read(vmid);
      if (manifest === null) return { role: 'absent', generation: 0, point: null, disks: [] };
      const { role, generation } = manifest;
      const newest = role === 'replica' ? manifests.newestZfsPoint(manifest) : null;
      const point = newest && { generation: newest.generation, seq: newest.seq };
      return { role, generation, point, disks: describeDisks(await copies.facts(vmid), await explainPartials(vmid)) };
    },
    async begin(request) {
      const session = await lock.run(request.vmid, () => open(request));
      return {
        request,
        received: (disk) => session.desk.waitFor(disk),
        seal: (about) => lock.run(request.vmid, () => seal(session, about)),
        abort: () =>
          lock.run(request.vmid, async () => {
            if (sessions.get(request.vmid) === session) await discard(request.vmid);
          }),
      };
    },
    discard,
    thin: (vmid, keep) => lock.run(vmid, () => thin(vmid, keep)),
    async closeAll() {
      for (const vmid of sessions.keys()) await lock.run(vmid, () => discard(vmid));
    },
  };

  async function explainPartials(vmid: number): Promise<Map<string, TargetDisk['partial']>> {
    const found = new Map<string, TargetDisk['partial']>();
    for (const [name, disk] of (await copies.facts(vmid)).live) {
      if (disk.resumeToken === null) continue;
      const content = parseToken(await runZfs(explainToken(disk.resumeToken), { alsoOnFailure: true }));
      found.set(name, content && { token: disk.resumeToken, toGuid: content.toGuid, receivedBytes: content.receivedBytes });
    }
    return found;
  }
}

function describeDisks(facts: GuestFacts, partials: Map<string, TargetDisk['partial']>): TargetDisk[] {
  const names = new Set([...facts.live.keys(), ...[...facts.aside.values()].flatMap((disks) => [...disks.keys()])]);
  return [...names].map((name) => ({
    name,
    guids: listAllVersions(facts, name).map((version) => version.guid),
    partial: partials.get(name) ?? null,
  }));
}
