import { setTimeout as sleep } from 'node:timers/promises';
import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { guestDataPaths, guestRunPaths } from '#core/guest/guest-paths.ts';
import { qemuCommandLine } from '#core/guest/qemu-command-line.ts';
import type { HypervisorFeatures } from '#core/guest/qmp-schema.ts';
import type { GuestNetwork } from '#ports/guest-network.ts';
import type { Hypervisor, HypervisorFacts, RunningGuest, StartGuest } from '#ports/hypervisor.ts';
import type { Qmp } from '#ports/qmp.ts';
import { probeAccelerator } from './accelerator-probe.ts';
import { probeFeatures } from './feature-probe.ts';
import { findPopulatedGroup, guestGroupPath, killGroup, makeGuestGroup, readPids, removeGroup } from './guest-group.ts';
import { prepareLogs, readQemuWords } from './guest-logs.ts';
import { listGuestMetas, makeRunFolder, removeRunFolder, writeGuestMeta, type GuestMeta } from './guest-meta.ts';
import { letGo, spawnGuest, type SpawnedGuest } from './guest-spawn.ts';
import { createLastingQmp } from './lasting-qmp.ts';
import { isAlive } from './process-identity.ts';
import { waitForQmp, type ConnectQmp } from './qmp-wait.ts';
import { createRunningGuest } from './running-guest.ts';
import { checkFilesExist } from './start-checks.ts';
import { asUnprivileged } from './unprivileged.ts';

export type HypervisorOptions = {
  dataDir: string;
  runDir: string;
  /** The guests' cgroup, `[guests] cgroup` of node.toml; the guard makes the epochs' groups in it. */
  cgroupDir: string;
  uid: number;
  gid: number;
  accelerator: 'auto' | 'kvm' | 'tcg';
  network: GuestNetwork;
  connectQmp: ConnectQmp;
  /** The program, found by PATH unless it is a path. */
  qemu?: string;
};

/**
 * QEMU processes of this node. Needs root: it enters cgroups, makes ports, and gives QEMU another user. One instance per node at
 * a time, for QEMU's monitor serves one client.
 */
export function createHypervisor(options: HypervisorOptions): Hypervisor & { probeFeatures(): Promise<HypervisorFeatures> } {
  const qemu = options.qemu ?? 'qemu-system-x86_64';
  const user = { uid: options.uid, gid: options.gid };
  const running = new Map<number, RunningGuest>();
  const starting = new Set<number>();
  let facts: Promise<HypervisorFacts> | null = null;

  function probe(): Promise<HypervisorFacts> {
    facts ??= probeAccelerator({ qemu, runDir: options.runDir, user, accelerator: options.accelerator }).catch(
      (error: unknown) => {
        facts = null;
        throw error;
      },
    );
    return facts;
  }

  async function start(order: StartGuest): Promise<RunningGuest> {
    if (starting.has(order.vmid)) throw new AppError('conflict', `start guest ${order.vmid}: another start of it is under way`);
    starting.add(order.vmid);
    try {
      return await startAlone(order);
    } finally {
      starting.delete(order.vmid);
    }
  }

  async function startAlone(order: StartGuest): Promise<RunningGuest> {
    const { accelerator } = await probe();
    const args = qemuCommandLine({ ...order, accelerator, dataDir: options.dataDir, runDir: options.runDir });
    checkFilesExist(order, options.dataDir);
    checkNotRunning(order.vmid);
    const groupPath = makeGuestGroup(options.cgroupDir, order.nodeEpoch, order.vmid);
    const command = asUnprivileged(user, accelerator, [qemu, ...args]);
    let logBytes = 0;
    try {
      logBytes = prepareLogs(options.dataDir, order.vmid, user).qemuLogBytes;
      makeRunFolder(options.runDir, order.vmid, user.gid);
      await options.network.createPorts(order.vmid, order.config.nics);
      return await launch(order, groupPath, command, logBytes);
    } catch (cause) {
      await abandon(order.vmid, groupPath);
      const words = readQemuWords(options.dataDir, order.vmid, logBytes);
      const kind = isAppError(cause) ? cause.kind : 'unavailable';
      throw new AppError(kind, `start guest ${order.vmid}${words === '' ? '' : `: QEMU says: ${words}`}`, { cause });
    }
  }

  async function launch(order: StartGuest, groupPath: string, command: string[], logBytes: number): Promise<RunningGuest> {
    const logPath = guestDataPaths(options.dataDir, order.vmid).qemuLog;
    const spawned: SpawnedGuest = await spawnGuest({ vmid: order.vmid, groupPath, command, logPath });
    const { vmid, generation, nodeEpoch } = order;
    const meta: GuestMeta = { vmid, generation, nodeEpoch, ...spawned.identity, startedAtMs: Date.now() };
    writeGuestMeta(options.runDir, meta);
    letGo(spawned);
    const socketPath = guestRunPaths(options.runDir, vmid).qmp;
    const first = await waitForQmp({
      connectQmp: options.connectQmp,
      socketPath,
      gone: spawned.end,
      deadlineMs: limits.qemuStartMs,
    });
    const words = () => readQemuWords(options.dataDir, vmid, logBytes);
    const end = spawned.end.then((how) => (words() === '' ? how : `${how}; QEMU says: ${words()}`));
    return attach(meta, end, first);
  }

  function checkNotRunning(vmid: number): void {
    const group = findPopulatedGroup(options.cgroupDir, vmid);
    if (group === null) return;
    throw new AppError(
      'conflict',
      `start guest ${vmid}: it already runs here, process ${group.pids.join(', ')} in ${group.path}`,
    );
  }

  /** Makes the handle of a live QEMU; `first` is a connection that is already open. */
  function attach(meta: GuestMeta, end: Promise<string>, first: Qmp | null): RunningGuest {
    const socketPath = guestRunPaths(options.runDir, meta.vmid).qmp;
    let given = first;
    const qmp = createLastingQmp({
      isAlive: () => isAlive(meta),
      connect: async () => {
        const open = given ?? (await options.connectQmp(socketPath, { deadlineMs: limits.qemuStartMs }));
        given = null;
        return open;
      },
    });
    let shutdownReason = '';
    qmp.onEvent((event) => {
      if (event.event === 'SHUTDOWN') shutdownReason = `${String(event.data['reason'])}, `;
    });
    const groupPath = guestGroupPath(options.cgroupDir, meta.nodeEpoch, meta.vmid);
    const exited = end.then(async (how) => {
      qmp.close();
      const leftover = await putAway(meta.vmid, groupPath);
      running.delete(meta.vmid);
      return { reason: `${shutdownReason}${how}${leftover}` };
    });
    const guest = createRunningGuest({ meta, qmp, groupPath, exited });
    running.set(meta.vmid, guest);
    return guest;
  }

  /** Removes what a guest's process leaves; what cannot be removed is told in words and made anew at the next start. */
  async function putAway(vmid: number, groupPath: string): Promise<string> {
    let trouble = '';
    try {
      removeGroup(groupPath);
      removeRunFolder(options.runDir, vmid);
      await options.network.removePorts(vmid);
    } catch (error) {
      trouble = ` (not all was cleaned up: ${formatErrorChain(error)})`;
    }
    return trouble;
  }

  async function abandon(vmid: number, groupPath: string): Promise<void> {
    killGroup(groupPath);
    const untilMs = performance.now() + limits.guestKillMs;
    while (readPids(groupPath).length > 0 && performance.now() < untilMs) await sleep(limits.qemuPollMs);
    await putAway(vmid, groupPath);
  }

  async function adopt(): Promise<RunningGuest[]> {
    for (const { vmid, meta } of listGuestMetas(options.runDir)) {
      if (running.has(vmid) || starting.has(vmid)) continue;
      if (meta !== null && isOurs(meta)) attach(meta, waitUntilGone(meta), null);
      // A live QEMU without a readable meta.json stays: `start` refuses next to it, and the guard's kill reaches it.
      else if (findPopulatedGroup(options.cgroupDir, vmid) === null) await putAway(vmid, groupOf(meta, vmid));
    }
    return [...running.values()];
  }

  /** The process is alive, is the same one, and is where only guests of ours can be. */
  function isOurs(meta: GuestMeta): boolean {
    return isAlive(meta) && readPids(guestGroupPath(options.cgroupDir, meta.nodeEpoch, meta.vmid)).includes(meta.pid);
  }

  function groupOf(meta: GuestMeta | null, vmid: number): string {
    return guestGroupPath(options.cgroupDir, meta?.nodeEpoch ?? 0, vmid);
  }

  return {
    probe,
    start,
    adopt,
    probeFeatures: () => probeFeatures({ qemu, runDir: options.runDir, connectQmp: options.connectQmp }),
  };
}

/** A process that is not our child: nobody tells us when it ends, so we look. */
async function waitUntilGone(meta: GuestMeta): Promise<string> {
  while (isAlive(meta)) await sleep(limits.guestExitPollMs);
  return `process ${meta.pid} is gone`;
}
