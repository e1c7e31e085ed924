import { rmdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { findCgroup2Mount } from '#adapters/cgroup/cgroup2-mount.ts';
import { killGroup, labsGroup, removeGroupTree, waitUntilEmpty } from '#lab/control-group.ts';
import { labPaths } from '#lab/lab-paths.ts';
import type { LabSpec } from '#lab/lab-spec.ts';
import { removeNamespaces } from '#lab/network.ts';

/** The lab's own control group. */
export function labGroup(name: string): string {
  return join(findCgroup2Mount(), labsGroup, name);
}

/**
 * Removes everything of a lab from this host, whoever made it and however it ended: processes by their control group, namespaces
 * by name, folders. Mounts of nodes vanish with their namespaces. Safe to repeat.
 */
export async function removeLeftovers(name: string): Promise<void> {
  const group = labGroup(name);
  killGroup(group);
  await waitUntilEmpty(group);
  await removeNamespaces(name);
  removeGroupTree(group);
  const { run, state } = labPaths(name);
  rmSync(run, { recursive: true, force: true });
  rmSync(state, { recursive: true, force: true });
  // The folders of all labs go with the last one.
  for (const shared of [dirname(group), dirname(run), dirname(state)]) removeIfEmpty(shared);
}

function removeIfEmpty(directory: string): void {
  try {
    rmdirSync(directory);
  } catch {
    // another lab has its place there
  }
}

/** The same for a lab whose room ends in order (its own process has left the lab's group before). */
export function removeLab(spec: LabSpec): Promise<void> {
  return removeLeftovers(spec.name);
}
