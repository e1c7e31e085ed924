import { setTimeout as sleep } from 'node:timers/promises';
import { formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { guestRunPaths } from '#core/guest/guest-paths.ts';
import type { GuestNetwork } from '#ports/guest-network.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import type { Qmp } from '#ports/qmp.ts';
import { guestGroupPath, killGroup, readPids, removeGroup } from './guest-group.ts';
import { removeRunFolder, type GuestMeta } from './guest-meta.ts';
import { createLastingQmp } from './lasting-qmp.ts';
import { isAlive } from './process-identity.ts';
import type { ConnectQmp } from './qmp-wait.ts';
import { createRunningGuest } from './running-guest.ts';

/** What every part that handles a guest's process needs to know of this node. */
export type NodeParts = { dataDir: string; runDir: string; cgroupDir: string; network: GuestNetwork; connectQmp: ConnectQmp };

/**
 * Makes the handle of a live QEMU. `end` settles with words when its process is gone; `first` is a connection that is already
 * open, if any. `exited` of the handle settles once everything the process left is put away.
 */
export function attachGuest(node: NodeParts, meta: GuestMeta, end: Promise<string>, first: Qmp | null): RunningGuest {
  const { qmp: socketPath, halt: markPath } = guestRunPaths(node.runDir, meta.vmid);
  let given = first;
  const qmp = createLastingQmp({
    isAlive: () => isAlive(meta),
    connect: async () => {
      const open = given ?? (await node.connectQmp(socketPath, { deadlineMs: limits.qemuStartMs }));
      given = null;
      return open;
    },
  });
  let shutdownReason = '';
  qmp.onEvent((event) => {
    if (event.event === 'SHUTDOWN') shutdownReason = `${String(event.data['reason'])}, `;
  });
  const groupPath = guestGroupPath(node.cgroupDir, meta.nodeEpoch, meta.vmid);
  const exited = end.then(async (how) => {
    qmp.close();
    return { reason: `${shutdownReason}${how}${await putAway(node, meta.vmid, groupPath)}` };
  });
  return createRunningGuest({ meta, qmp, groupPath, markPath, exited });
}

/** Removes what a guest's process left. What could not be removed is told in words, and made anew at the next start anyway. */
export async function putAway(node: NodeParts, vmid: number, groupPath: string): Promise<string> {
  try {
    removeGroup(groupPath);
    removeRunFolder(node.runDir, vmid);
    await node.network.removePorts(vmid);
    return '';
  } catch (error) {
    return ` (not all was cleaned up: ${formatErrorChain(error)})`;
  }
}

/** Ends a start that failed half-way: whatever is in the group dies, and nothing stays. */
export async function abandonGuest(node: NodeParts, vmid: number, groupPath: string): Promise<void> {
  killGroup(groupPath);
  const untilMs = performance.now() + limits.guestKillMs;
  while (readPids(groupPath).length > 0 && performance.now() < untilMs) await sleep(limits.qemuPollMs);
  await putAway(node, vmid, groupPath);
}

/** The process is alive, is the one written down, and is where only guests of ours can be. */
export function isOurs(node: NodeParts, meta: GuestMeta): boolean {
  return isAlive(meta) && readPids(guestGroupPath(node.cgroupDir, meta.nodeEpoch, meta.vmid)).includes(meta.pid);
}

/** A process that is not our child: nobody tells us when it ends, so we look. */
export async function waitUntilGone(meta: GuestMeta): Promise<string> {
  while (isAlive(meta)) await sleep(limits.guestExitPollMs);
  return `process ${meta.pid} is gone`;
}
