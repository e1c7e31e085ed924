import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { createDirStorage } from '#adapters/dir/dir-storage.ts';
import { runCommand } from '#adapters/dir/command.ts';
import { serveDisks, serveWritable, writeContent } from '#adapters/dir/serve-disks.ts';
import { endLeftoverDaemons } from '#adapters/dir/storage-daemon.ts';
import { connectQmp } from '#adapters/qmp/qmp-client.ts';
import { flushExport } from '#adapters/nbd/nbd-client.ts';
import { createZfsStorage } from '#adapters/zfs/zfs-storage.ts';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { NodeInfo } from '#core/ha/records.ts';
import { defaultReplicationJob, type ReplicaRecord, type ReplicationJob } from '#core/replica/records.ts';
import type { Clock } from '#ports/clock.ts';
import type { GuestStorage } from '#ports/guest-storage.ts';
import type { Store } from '#ports/store.ts';
import { readRecord, type World, writeOwnedRecord } from '#programs/agent/world.ts';
import type { Log } from '#programs/log.ts';
import { createGuestRests, type GuestRests } from '#programs/guest-rest.ts';
import type { NodeConfig } from '#programs/node-config.ts';
import type { Peer } from '#programs/replication/control-client.ts';
import { createDirDriver } from '#programs/replication/dir-driver.ts';
import type { ReplicationDriver } from '#programs/replication/driver.ts';
import { runPaths } from '#programs/replication/paths.ts';
import type { WithRest } from '#programs/replication/point-rest.ts';
import { createPointLock, type PointLock } from '#programs/replication/point-lock.ts';
import { createReplication, type Replication } from '#programs/replication/replication.ts';
import { createZfsDriver } from '#programs/replication/zfs-driver.ts';

export type NodeStorageParts = { config: NodeConfig; store: Store; world: World; clock: Clock; log: Log };

/** This node's disks and both directions of their replication, wired to the cluster's record. */
export function openNodeStorage(parts: NodeStorageParts): {
  storage: GuestStorage;
  replication: Replication;
  points: PointLock;
  rests: GuestRests;
} {
  const { config, store, world, clock, log } = parts;
  const { name, run } = config.node;
  const points = createPointLock();
  const say = (text: string): void => log.info({ event: 'replication' }, text);
  const readPeers = (): Peer[] => listPeers(world, name);
  const rests = createGuestRests({ run, log: say });
  const withRest: WithRest = (guest, work) => rests.hold(guest.vmid, work);
  const { storage, driver } =
    config.storage.driver === 'zfs' ? openPool(parts, { say, withRest, readPeers }) : openFiles(parts, { say, withRest, points });
  const replication = createReplication({
    driver,
    run,
    clock,
    log: say,
    authorize: async (vmid, sender, generation) => authorizeSender(store, vmid, sender, generation),
    publish: async (vmid, record) => publishReplica(store, name, vmid, record),
    readPeers,
    readJob: (vmid) => world.read<ReplicationJob>(keys.replicationJob(vmid))?.value ?? { vmid, ...defaultReplicationJob },
    readConfigSha256: (vmid) => hashConfig(world.read<GuestRecord>(keys.guest(vmid))?.value ?? null),
  });
  return { storage, replication, points, rests };
}

type OpenedStorage = { storage: GuestStorage; driver: ReplicationDriver };

type Shared = { say: (text: string) => void; withRest: WithRest };

function openFiles(
  { config, clock, log }: NodeStorageParts,
  { say, withRest, points }: Shared & { points: PointLock },
): OpenedStorage {
  const { name, data, run } = config.node;
  const user = { uid: config.guests.uid, gid: config.guests.gid };
  const storage = createDirStorage({
    root: join(data, 'dir'),
    run: runPaths.storage(run),
    user,
    connectQmp,
    flushExport,
    log: (text) => log.info({ event: 'storage' }, text),
  });
  const scratch = { scratch: join(data, 'scratch'), scratchLimitBytes: limits.scratchBytes };
  return { storage, driver: createDirDriver({ node: name, storage, points, withRest, run, ...scratch, user, clock, log: say }) };
}

function openPool(
  { config, clock, log }: NodeStorageParts,
  { say, withRest, readPeers }: Shared & { readPeers: () => Peer[] },
): OpenedStorage {
  const { name, data, run } = config.node;
  const { dataset, disks, blockBytes } = requirePool(config);
  const user = { uid: config.guests.uid, gid: config.guests.gid };
  const storage = createZfsStorage({
    root: dataset,
    run: runPaths.storage(run),
    mounts: join(data, 'zfs'),
    newDisks: disks,
    blockBytes,
    user,
    copyImage: copyRawImage,
    serveDisks: (label, chains) => serveDisks(join(runPaths.storage(run), label), chains, { user, connectQmp }),
    async writeDisks(label, chains, content) {
      const served = await serveWritable(join(runPaths.storage(run), label), chains, { user, connectQmp, flushExport });
      return await writeContent(served, content);
    },
    endServers: () => endLeftoverDaemons(runPaths.storage(run)),
    wallMs: () => clock.wallMs(),
    log: (text) => log.info({ event: 'storage' }, text),
  });
  return {
    storage,
    driver: createZfsDriver({
      node: name,
      storage,
      run,
      readPeers,
      withRest,
      resumeFromBytes: limits.zfsResumeBytes,
      clock,
      log: say,
    }),
  };
}

function requirePool(config: NodeConfig): Extract<NodeConfig['storage'], { driver: 'zfs' }> {
  if (config.storage.driver === 'zfs') return config.storage;
  throw new AppError('invalid', `${config.file}: storage.driver is ${config.storage.driver}`);
}

async function copyRawImage(from: string, to: string, { what, isZeroed }: { what: string; isZeroed: boolean }): Promise<void> {
  // -n keeps what was made for it, with its owner and its full length; zeroes stay holes.
  const onto = isZeroed ? ['-n', '--target-is-zero'] : [];
  await runCommand(['qemu-img', 'convert', '-q', ...onto, '-f', 'raw', '-O', 'raw', from, to], {
    what,
    user: null,
    deadlineMs: limits.imageCopyMs,
    nice: true,
  });
}

/** Refuses a sender that is not the guest's home at that generation, by a linearizable read: a stale sender changes nothing. */
async function authorizeSender(store: Store, vmid: number, sender: string, generation: number): Promise<void> {
  const record = await readRecord<GuestRecord>(store, keys.guest(vmid));
  if (record === null) throw new AppError('missing', `points of guest ${vmid} from ${sender}: the cluster has no such guest`);
  const { home, generation: current } = record.value;
  if (home !== sender || current !== generation) {
    throw new AppError(
      'conflict',
      `points of guest ${vmid}, generation ${generation}, from ${sender}: its home is ${home} at generation ${current}; nothing was changed`,
    );
  }
}

async function publishReplica(store: Store, node: string, vmid: number, record: ReplicaRecord | null): Promise<void> {
  const key = keys.replica(vmid, node);
  if (record !== null) {
    await writeOwnedRecord(store, key, record);
    return;
  }
  const current = await store.read(key);
  if (current !== null) await store.commit([{ key, modRevision: current.modRevision }], [{ key, value: null }]);
}

function listPeers(world: World, self: string): Peer[] {
  return world
    .list<NodeInfo>(prefixes.nodes)
    .filter((entry) => entry.key.endsWith('/info') && entry.value.name !== self)
    .map(({ value }) => ({ node: value.name, address: value.address, relayPort: value.relayPort }));
}

function hashConfig(record: GuestRecord | null): string {
  return createHash('sha256')
    .update(JSON.stringify(record?.config ?? null))
    .digest('hex');
}
