import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { Qmp } from '#ports/qmp.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import type { GuestMeta } from './guest-meta.ts';
import { killGroup } from './guest-group.ts';

/** `exited` settles after the caller has put the guest's things away. */
type Params = { meta: GuestMeta; qmp: Qmp; groupPath: string; exited: Promise<{ reason: string }> };

export function createRunningGuest({ meta, qmp, groupPath, exited }: Params): RunningGuest {
  async function waitUntilGone(deadlineMs: number): Promise<boolean> {
    const late = Promise.withResolvers<boolean>();
    const timer = setTimeout(() => late.resolve(false), deadlineMs);
    try {
      return await Promise.race([exited.then(() => true), late.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  async function kill(): Promise<void> {
    killGroup(groupPath);
    if (await waitUntilGone(limits.guestKillMs)) return;
    throw new AppError(
      'timeout',
      `kill guest ${meta.vmid}: process ${meta.pid} is still there ${limits.guestKillMs} ms after SIGKILL; its disks may hang`,
    );
  }

  async function shutdown(options: { deadlineMs: number }): Promise<void> {
    if (await askToPowerDown(qmp, options.deadlineMs)) {
      if (await waitUntilGone(options.deadlineMs)) return;
    }
    await kill();
  }

  return {
    vmid: meta.vmid,
    generation: meta.generation,
    nodeEpoch: meta.nodeEpoch,
    pid: meta.pid,
    qmp,
    resume: () => resume(qmp),
    shutdown,
    kill,
    exited,
  };
}

async function resume(qmp: Qmp): Promise<void> {
  // Switches learn where the guest lives now; five rounds in case the first are lost.
  const announcement = { initial: 50, max: 550, rounds: 5, step: 50 };
  const [cont] = await qmp.pipeline([{ execute: 'cont' }, { execute: 'announce-self', arguments: announcement }]);
  // A failed announcement is not a failed start: the guest's first own frame tells the switches as well.
  if (cont !== undefined && 'error' in cont) throw cont.error;
}

/** False when nobody can hear it: the guest never ran, or its monitor is dead. */
async function askToPowerDown(qmp: Qmp, deadlineMs: number): Promise<boolean> {
  const callMs = Math.min(deadlineMs, limits.qmpCallMs);
  try {
    const { status } = await qmp.execute<{ status: string }>('query-status', undefined, { deadlineMs: callMs });
    if (status === 'prelaunch') return false;
    await qmp.execute('system_powerdown', undefined, { deadlineMs: callMs });
    return true;
  } catch {
    return false;
  }
}
