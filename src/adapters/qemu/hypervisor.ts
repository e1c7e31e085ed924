import { AppError } from '#base/error.ts';
import { qemuCommandLine } from '#core/guest/qemu-command-line.ts';
import type { HypervisorFeatures } from '#core/guest/qmp-schema.ts';
import type { Hypervisor, HypervisorFacts, RunningGuest, StartGuest } from '#ports/hypervisor.ts';
import { probeAccelerator } from './accelerator-probe.ts';
import { probeFeatures } from './feature-probe.ts';
import { attachGuest, isOurs, putAway, waitUntilGone, type NodeParts } from './guest-attachment.ts';
import { findPopulatedGroup, guestGroupPath } from './guest-group.ts';
import { launchGuest } from './guest-launch.ts';
import { listGuestMetas } from './guest-meta.ts';
import { checkFilesExist } from './start-checks.ts';
import { asUnprivileged } from './unprivileged.ts';

/** `cgroupDir`: the guests' cgroup, `[guests] cgroup` of node.toml; the guard makes the epochs' groups in it. */
export type HypervisorOptions = NodeParts & {
  uid: number;
  gid: number;
  accelerator: 'auto' | 'kvm' | 'tcg';
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
      const { accelerator } = await probe();
      const args = qemuCommandLine({ ...order, accelerator, dataDir: options.dataDir, runDir: options.runDir });
      checkFilesExist(order, options.dataDir);
      return keep(
        await launchGuest(options, order, user, asUnprivileged(user, accelerator, [qemu, ...args, ...pausingArgs(order)])),
      );
    } finally {
      starting.delete(order.vmid);
    }
  }

  async function adopt(): Promise<RunningGuest[]> {
    for (const { vmid, meta } of listGuestMetas(options.runDir)) {
      if (running.has(vmid) || starting.has(vmid)) continue;
      if (meta !== null && isOurs(options, meta)) keep(attachGuest(options, meta, waitUntilGone(meta), null));
      // A live QEMU without a readable meta.json stays: `start` refuses next to it, and the guard's kill reaches it.
      else if (findPopulatedGroup(options.cgroupDir, vmid) === null) {
        await putAway(options, vmid, guestGroupPath(options.cgroupDir, meta?.nodeEpoch ?? 0, vmid));
      }
    }
    return [...running.values()];
  }

  function keep(guest: RunningGuest): RunningGuest {
    running.set(guest.vmid, guest);
    void guest.exited.then(() => {
      if (running.get(guest.vmid) === guest) running.delete(guest.vmid);
    });
    return guest;
  }

  return {
    probe,
    start,
    adopt,
    probeFeatures: () => probeFeatures({ qemu, runDir: options.runDir, connectQmp: options.connectQmp }),
  };
}

/** QEMU's option -set adds to a device that was named before. */
function pausingArgs({ disks }: StartGuest): string[] {
  const pausing = disks.filter(({ pausesGuest }) => pausesGuest === true);
  return pausing.flatMap(({ disk }) => ['rerror', 'werror'].flatMap((on) => ['-set', `device.${disk}.${on}=stop`]));
}
