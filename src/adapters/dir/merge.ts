import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { limits } from '#base/limits.ts';
import type { ReplicationJob } from '#core/replica/records.ts';
import { planRetention } from '#core/replica/retention.ts';
import { closeMerge, dropPoints, openForMerge, planMerge, type MergeStep } from '#core/storage/merge-plan.ts';
import type { Manifest } from '#core/storage/manifest.ts';
import { runCommand, type ImageUser } from './command.ts';
import { syncPath } from './durable-file.ts';
import { describeChain, sealLayer } from './layer-files.ts';
import { commitManifest, guestDirectory, readManifest } from './manifest-file.ts';

/**
 * Drops the points that `keep` no longer wants and does one merge. Returns false when nothing is left to do. The order survives a
 * crash between any two steps: the manifest drops the points, the layer is committed downwards (a redo log: it may be repeated),
 * the lower file is fsynced, the manifest drops the layer, the file goes.
 */
export async function thinOnce(
  deps: { root: string; user: ImageUser },
  vmid: number,
  keep: ReplicationJob['keep'],
  signal: AbortSignal,
): Promise<boolean> {
  const found = await readManifest(deps.root, vmid);
  if (found === null || found.role !== 'replica') return false;
  const manifest = dropPoints(found, planRetention(found.points, keep));
  const step = planMerge(manifest);
  if (step === null) {
    if (manifest.points.length !== found.points.length) await commitManifest(deps.root, manifest);
    return false;
  }
  const opened = openForMerge(manifest, step);
  await commitManifest(deps.root, opened);
  await commitLayer(deps, opened, step, signal);
  return true;
}

async function commitLayer(
  deps: { root: string; user: ImageUser },
  opened: Manifest,
  step: MergeStep,
  signal: AbortSignal,
): Promise<void> {
  const directory = guestDirectory(deps.root, opened.vmid);
  const layers = opened.disks.find((disk) => disk.name === step.disk)?.layers ?? [];
  const chain = describeChain(directory, layers.slice(0, step.index + 1), { writableLayers: 2 });
  await runCommand(['qemu-img', 'commit', '-q', '-d', `json:${JSON.stringify(chain)}`], {
    what: `merge ${step.upper.file} of guest ${opened.vmid} into ${step.lower.file}`,
    user: deps.user,
    deadlineMs: limits.imageCopyMs,
    signal,
    nice: true,
  });
  await syncPath(join(directory, step.lower.file));
  const sizeBytes = Math.max(step.lower.sizeBytes, step.upper.sizeBytes);
  const { sealed } = await sealLayer(directory, { ...step.lower, sizeBytes });
  await commitManifest(deps.root, closeMerge(opened, step, sealed));
  await rm(join(directory, step.upper.file), { force: true });
}
