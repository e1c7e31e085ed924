import { AppError } from '#base/error.ts';
import type { GuestConfig, GuestRecord } from '#core/guest/guest-record.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaResource } from '#core/ha/records.ts';
import { formatSize } from '#core/text/size.ts';
import type { GuestStorage, NewContent } from '#ports/guest-storage.ts';
import { claimHome, confirmHome, type HomeClaim, type HomeClaimParts } from '#programs/agent/home-claim.ts';
import { publishKeptDisks } from '#programs/agent/kept-disks.ts';
import { readRecord } from '#programs/agent/world.ts';

export type RestoreOverParts = HomeClaimParts & {
  storage: Pick<GuestStorage, 'listCopies' | 'replace'>;
  isRunning: (vmid: number) => boolean;
};

/** What a guest becomes. `tail`: the name under which its old disks are kept; a repeated request gives the same. */
export type RestoredContent = Pick<NewContent, 'tail' | 'fromAtMs' | 'write'> & {
  vmid: number;
  name: string;
  config: GuestConfig;
};

const what = 'restore over';

/**
 * Refuses guests that are not at home here or not at rest, before anything is fetched; else returns the record. No action on the guest may be
 * under way or begin until all is done. One whose disks were replaced already, by the request that `tail` is named after, may run.
 */
export async function beginRestoreOver(
  parts: RestoreOverParts,
  vmid: number,
  tail: string,
): Promise<{ record: GuestRecord; claim: HomeClaim }> {
  const claim = await claimHome(parts, vmid, what);
  const { value: record } = await confirmHome(parts, claim, what);
  const want = (await readRecord<HaResource>(parts.store, keys.haResource(vmid)))?.value.want ?? 'stopped';
  const isCut = await hasTail(parts.storage, vmid, tail);
  if (!isCut && (parts.isRunning(vmid) || want === 'started')) {
    throw new AppError(
      'conflict',
      `${what} guest ${vmid}: it runs, or is wanted started; stop it first (holdfast guest stop ${vmid}). Nothing was changed`,
    );
  }
  return { record, claim };
}

/**
 * Gives the guest the disks and the configuration of the backup. The disks count from the rename of the manifest on, and what lay there is kept from
 * that very moment; the record follows. A request that was cut between the two finds the tail of its name and only brings the record up to date.
 */
export async function restoreOver(parts: RestoreOverParts, claim: HomeClaim, content: RestoredContent): Promise<string[]> {
  const { storage, self } = parts;
  const { vmid, tail, config, fromAtMs, write } = content;
  let said = `the disks of guest ${vmid} were the backup's already`;
  if (await hasTail(storage, vmid, tail)) said = `the disks of guest ${vmid} had been replaced before the agent ended`;
  else {
    const confirm = async (): Promise<void> => void (await confirmHome(parts, claim, what));
    const { changedBytes } = await storage.replace(vmid, claim.generation, {
      tail,
      fromAtMs,
      disks: config.disks,
      write,
      confirm,
    });
    if (changedBytes > 0) said = `guest ${vmid} has the disks of the backup; ${formatSize(changedBytes)} of them were different`;
  }
  await bringRecord(parts, claim, content);
  await publishKeptDisks(parts, vmid);
  const isKept = await hasTail(storage, vmid, tail);
  return [said, ...(isKept ? [`the disks that it had are kept on ${self} as ${tail} (holdfast replication tails ${vmid})`] : [])];
}

async function hasTail(storage: Pick<GuestStorage, 'listCopies'>, vmid: number, tail: string): Promise<boolean> {
  const copy = (await storage.listCopies()).find((held) => held.vmid === vmid);
  return copy?.leftBehind.some(({ name }) => name === tail) === true;
}

async function bringRecord(parts: RestoreOverParts, claim: HomeClaim, { vmid, name, config }: RestoredContent): Promise<void> {
  const key = keys.guest(vmid);
  for (let attempt = 0; attempt < 4; attempt += 1) {
    const { value, modRevision } = await confirmHome(parts, claim, what);
    const next = JSON.stringify({ ...value, name, config });
    if (next === JSON.stringify(value)) return;
    const outcome = await parts.store.commit([{ key, modRevision }], [{ key, value: next }]);
    if (outcome.kind === 'committed') return;
  }
  throw new AppError(
    'conflict',
    `${what} guest ${vmid}: its disks are the backup's, its record is not yet: others write it. Ask again`,
  );
}
