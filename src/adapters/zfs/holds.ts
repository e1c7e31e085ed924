import { listHolds, releaseSnapshots } from '#core/storage/zfs/commands.ts';
import { parseHolds } from '#core/storage/zfs/listing.ts';
import type { GuestFacts } from './guest-facts.ts';
import { runZfs } from './zfs-command.ts';

/** Our hold on the newest point that was confirmed here: to lose it would mean to send everything again. */
export const heldTag = 'holdfast';

/** Our hold on a point whose stream to a node was cut. */
export function cutTag(node: string): string {
  return `${heldTag}-cut-${node}`;
}

/** Whether a hold is one of ours, whatever it is for. */
export function isOwnTag(tag: string): boolean {
  return tag === heldTag || tag.startsWith(`${heldTag}-cut-`);
}

/** Lets go of a guest's snapshots by the holds that `isMeant` names; those of somebody else stay. `but`: a snapshot that stays held. */
export async function releaseHolds(
  facts: GuestFacts,
  isMeant: (tag: string) => boolean,
  but: string | null = null,
): Promise<void> {
  const datasets = [...facts.live.values(), ...[...facts.aside.values()].flatMap((disks) => [...disks.values()])];
  const held = datasets.flatMap((dataset) =>
    dataset.versions
      .filter((version) => version.kind === 'snapshot' && version.holds > 0 && version.name !== but)
      .map((version) => ({ of: dataset.name, name: version.name })),
  );
  if (held.length === 0) return;
  const byTag = new Map<string, typeof held>();
  for (const { of, name, tag } of parseHolds(await runZfs(listHolds(held)))) {
    if (isMeant(tag)) byTag.set(tag, [...(byTag.get(tag) ?? []), { of, name }]);
  }
  for (const [tag, snapshots] of byTag) await runZfs(releaseSnapshots(snapshots, tag));
}
