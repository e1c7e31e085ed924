import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { createFolder, setOwnProperties } from '#core/storage/zfs/commands.ts';
import { formatZfsManifest } from '#core/storage/zfs/manifest-text.ts';
import type { ZfsManifest } from '#core/storage/zfs/manifest.ts';
import { guestDataset, poolOf } from '#core/storage/zfs/names.ts';
import type { NewContent } from '#ports/guest-storage.ts';
import type { DiskChain } from '#ports/hypervisor.ts';
import { readGuestFacts, readManifests, type GuestFacts } from './guest-facts.ts';
import { runZfs } from './zfs-command.ts';
import type { ImageUser } from './device.ts';

export type ZfsStorageOptions = {
  /** The dataset that everything of ours lies in, e.g. `tank/holdfast`. */
  root: string;
  /** Folder for the sockets on which streams come in, empty at each boot. */
  run: string;
  /** Folder in which disks that are files are mounted. */
  mounts: string;
  /** What new guests' disks are made as. */
  newDisks: 'volume' | 'file';
  /** Block of a new volume, see core/storage/zfs/pool-plan.ts. */
  blockBytes: number;
  /** The user that QEMU runs as; null: the current one. */
  user: ImageUser;
  /** Copies a raw image onto another; only what is not zero when `isZeroed`. */
  copyImage: (from: string, to: string, options: { what: string; isZeroed: boolean }) => Promise<void>;
  /** Serves disks read-only over NBD from a process of its own, known by `label`. */
  serveDisks: (label: string, chains: DiskChain[]) => Promise<{ nbdSocket: string; close(): Promise<void> }>;
  /** Has `content` write these disks, over NBD from a process of its own; returns how many bytes came out different. */
  writeDisks: (label: string, chains: DiskChain[], content: Pick<NewContent, 'disks' | 'write'>) => Promise<number>;
  /** Ends those processes where an earlier one of ours left some. */
  endServers: () => Promise<unknown>;
  wallMs: () => number;
  log: (text: string) => void;
};

/** The manifests, as they are in the pool. This process is the only one that changes them, so they are read once. */
export type Copies = {
  list(): Promise<ZfsManifest[]>;
  read(vmid: number): Promise<ZfsManifest | null>;
  /** Raises AppError missing, saying what was looked for. */
  require(vmid: number, what: string): Promise<ZfsManifest>;
  requirePrimary(vmid: number, generation: number, what: string): Promise<ZfsManifest>;
  /** Durable when it returns. The guest's dataset must be there. */
  commit(manifest: ZfsManifest): Promise<void>;
  forget(vmid: number): void;
  /** Guests whose dataset was begun and never finished. */
  unfinished(): Promise<number[]>;
  facts(vmid: number): Promise<GuestFacts>;
  /** A number for a dataset that does not live long; never the same twice, also not by an earlier process. */
  nextNumber(): number;
};

export function createCopies(options: Pick<ZfsStorageOptions, 'root' | 'wallMs' | 'log'>): Copies {
  const { root } = options;
  let loading: Promise<Map<number, ZfsManifest>> | null = null;
  let unfinished: number[] = [];
  let lastNumber = 0;

  async function load(): Promise<Map<number, ZfsManifest>> {
    await ensureRoot(root);
    const known = new Map<number, ZfsManifest>();
    unfinished = [];
    for (const [vmid, found] of await readManifests(root)) {
      if (found.error !== null)
        options.log(`the copy of guest ${vmid} is unreadable and left as it is: ${formatErrorChain(found.error)}`);
      else if (found.manifest !== null) known.set(vmid, found.manifest);
      else if (found.isUnfinished) unfinished.push(vmid);
    }
    return known;
  }

  async function loaded(): Promise<Map<number, ZfsManifest>> {
    const mine = (loading ??= load());
    return await mine.catch((error: unknown) => {
      if (loading === mine) loading = null;
      throw error;
    });
  }

  async function require(vmid: number, what: string): Promise<ZfsManifest> {
    const manifest = (await loaded()).get(vmid);
    if (manifest !== undefined) return manifest;
    throw new AppError('missing', `${what} guest ${vmid}: this node holds no copy (looked for ${guestDataset(root, vmid)})`);
  }

  return {
    list: async () => [...(await loaded()).values()],
    read: async (vmid) => (await loaded()).get(vmid) ?? null,
    require,
    async requirePrimary(vmid, generation, what) {
      const manifest = await require(vmid, what);
      if (manifest.role === 'primary' && manifest.generation === generation) return manifest;
      const held = `a ${manifest.role} copy of generation ${manifest.generation}`;
      throw new AppError('conflict', `${what} guest ${vmid}: generation ${generation} was ordered, this node holds ${held}`);
    },
    async commit(manifest) {
      const known = await loaded();
      try {
        await runZfs(setOwnProperties(guestDataset(root, manifest.vmid), formatZfsManifest(manifest)));
        known.set(manifest.vmid, manifest);
      } catch (error) {
        loading = null; // a command that was not seen to its end may have been carried out
        throw error;
      }
    },
    forget: (vmid) => void (loading = loading?.then((known) => (known.delete(vmid), known)) ?? null),
    async unfinished() {
      await loaded();
      return unfinished;
    },
    nextNumber: () => (lastNumber = Math.max(lastNumber + 1, options.wallMs())),
    async facts(vmid) {
      const found = await readGuestFacts(root, vmid);
      if (found !== null) return found;
      throw new AppError('missing', `read guest ${vmid}: there is no ${guestDataset(root, vmid)}`);
    },
  };
}

/** The root is made when its pool is there; a pool that is not is told with what to do. */
async function ensureRoot(root: string): Promise<void> {
  try {
    await runZfs(createFolder(root, { parents: true, isUnfinished: false }));
  } catch (error) {
    if (isAppError(error, 'conflict')) return;
    const pool = poolOf(root);
    throw new AppError(
      'unavailable',
      `storage ${root} is not there; is the pool imported? See: holdfast pool status; holdfast pool import ${pool}`,
      {
        cause: error,
      },
    );
  }
}
