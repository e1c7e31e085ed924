import { AppError, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { guestDataPaths, guestRunPaths } from '#core/guest/guest-paths.ts';
import type { RunningGuest, StartGuest } from '#ports/hypervisor.ts';
import { abandonGuest, attachGuest, type NodeParts } from './guest-attachment.ts';
import { findPopulatedGroup, hasEpochGroup, makeGuestGroup } from './guest-group.ts';
import { prepareLogs, readQemuWords } from './guest-logs.ts';
import { makeRunFolder, writeGuestMeta, type GuestMeta } from './guest-meta.ts';
import { letGo, spawnGuest } from './guest-spawn.ts';
import { waitForQmp } from './qmp-wait.ts';
import type { QemuUser } from './unprivileged.ts';

/**
 * Starts `command` (QEMU, as an unprivileged user) for the order and waits until its monitor answers; on any failure nothing of
 * it stays. Raises AppError conflict (it already runs, or the epoch's cgroup is gone), missing (a bridge), unavailable/timeout
 * with QEMU's own words.
 */
export async function launchGuest(node: NodeParts, order: StartGuest, user: QemuUser, command: string[]): Promise<RunningGuest> {
  const { vmid, nodeEpoch } = order;
  const group = findPopulatedGroup(node.cgroupDir, vmid);
  if (group !== null) {
    throw new AppError(
      'conflict',
      `start guest ${vmid}: it already runs here, process ${group.pids.join(', ')} in ${group.path}`,
    );
  }
  const groupPath = makeGuestGroup(node.cgroupDir, nodeEpoch, vmid);
  let logBytes = 0;
  try {
    logBytes = prepareLogs(node.dataDir, vmid, user).qemuLogBytes;
    makeRunFolder(node.runDir, vmid, user.gid);
    await node.network.createPorts(vmid, order.config.nics);
    return await spawnAndAttach(node, order, { groupPath, command, logBytes });
  } catch (cause) {
    await abandonGuest(node, vmid, groupPath);
    if (!hasEpochGroup(node.cgroupDir, nodeEpoch)) {
      throw new AppError('conflict', `start guest ${vmid}: node epoch ${nodeEpoch} was taken away meanwhile`, { cause });
    }
    throw describeFailure(vmid, cause, readQemuWords(node.dataDir, vmid, logBytes));
  }
}

type Launch = { groupPath: string; command: string[]; logBytes: number };

async function spawnAndAttach(node: NodeParts, order: StartGuest, launch: Launch): Promise<RunningGuest> {
  const { vmid, generation, nodeEpoch } = order;
  const logPath = guestDataPaths(node.dataDir, vmid).qemuLog;
  const spawned = await spawnGuest({ vmid, groupPath: launch.groupPath, command: launch.command, logPath });
  const meta: GuestMeta = { vmid, generation, nodeEpoch, ...spawned.identity, startedAtMs: Date.now() };
  writeGuestMeta(node.runDir, meta);
  letGo(spawned);
  const first = await waitForQmp({
    connectQmp: node.connectQmp,
    socketPath: guestRunPaths(node.runDir, vmid).qmp,
    gone: spawned.end,
    deadlineMs: limits.qemuStartMs,
  });
  const end = spawned.end.then((how) => {
    const words = readQemuWords(node.dataDir, vmid, launch.logBytes);
    return words === '' ? how : `${how}; QEMU says: ${words}`;
  });
  return attachGuest(node, meta, end, first);
}

function describeFailure(vmid: number, cause: unknown, words: string): AppError {
  if (isAppError(cause) && words === '') return cause;
  const kind = isAppError(cause) ? cause.kind : 'unavailable';
  return new AppError(kind, `start guest ${vmid}${words === '' ? '' : `: QEMU says: ${words}`}`, { cause });
}
