import { AppError, isAppError } from '#base/error.ts';
import { listGuest, readOwnProperties } from '#core/storage/zfs/commands.ts';
import { listingColumns, parseListing, parseOwnProperties, type Dataset } from '#core/storage/zfs/listing.ts';
import { parseZfsManifest } from '#core/storage/zfs/manifest-text.ts';
import type { ZfsManifest } from '#core/storage/zfs/manifest.ts';
import { guestDataset, parseGuestChild, vmidOf } from '#core/storage/zfs/names.ts';
import { runZfs } from './zfs-command.ts';

/** What lies in the pool of one guest. */
export type GuestFacts = {
  vmid: number;
  dataset: string;
  /** Disk name to its dataset. */
  live: Map<string, Dataset>;
  /** Tail name, then disk name. */
  aside: Map<string, Map<string, Dataset>>;
  /** Disks that are being written anew. */
  next: Map<string, Dataset>;
  /** Clones that were read, and whatever else an earlier process had no use for any more. */
  garbage: Dataset[];
};

/** Reads everything below a guest's dataset; null: there is none. */
export async function readGuestFacts(root: string, vmid: number): Promise<GuestFacts | null> {
  const dataset = guestDataset(root, vmid);
  let output: string;
  try {
    output = await runZfs(listGuest(dataset, listingColumns));
  } catch (error) {
    if (isAppError(error, 'missing')) return null;
    throw error;
  }
  const facts: GuestFacts = { vmid, dataset, live: new Map(), aside: new Map(), next: new Map(), garbage: [] };
  for (const entry of parseListing(output)) {
    const child = parseGuestChild(dataset, entry.name);
    if (child === null) continue;
    switch (child.of) {
      case 'live':
        facts.live.set(child.disk, entry);
        break;
      case 'tail':
        facts.aside.set(child.tail, (facts.aside.get(child.tail) ?? new Map<string, Dataset>()).set(child.disk, entry));
        break;
      case 'next':
        facts.next.set(child.disk, entry);
        break;
      case 'look':
        facts.garbage.push(entry);
        break;
    }
  }
  return facts;
}

/** Every guest below the root; `error` where its manifest cannot be read. Raises AppError missing when there is no such root. */
export async function readManifests(
  root: string,
): Promise<Map<number, { manifest: ZfsManifest | null; isUnfinished: boolean; error: AppError | null }>> {
  const found = parseOwnProperties(await runZfs(readOwnProperties(root, 1)));
  const manifests = new Map<number, { manifest: ZfsManifest | null; isUnfinished: boolean; error: AppError | null }>();
  for (const [dataset, properties] of found) {
    const vmid = vmidOf(root, dataset);
    if (vmid === null) continue;
    const isUnfinished = properties.has('holdfast:unfinished');
    try {
      manifests.set(vmid, { manifest: parseZfsManifest(properties, dataset), isUnfinished, error: null });
    } catch (error) {
      if (!(error instanceof AppError)) throw error;
      manifests.set(vmid, { manifest: null, isUnfinished, error });
    }
  }
  return manifests;
}
