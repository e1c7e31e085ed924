import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { Qmp } from '#ports/qmp.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import type { GuestMeta } from './guest-meta.ts';
import { killGroup } from './guest-group.ts';
import { haltGuest, readProcessState, readRunState, reviveGuest } from './guest-halt.ts';

/** `exited` settles after the caller has put the guest's things away. `markPath`: see guest-halt.ts. */
type Params = { meta: GuestMeta; qmp: Qmp; groupPath: string; markPath: string; exited: Promise<{ reason: string }> };

export function createRunningGuest({ meta, qmp, groupPath, markPath, exited }: Params): RunningGuest {
  const halt = { vmid: meta.vmid, qmp, markPath };

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

  async function end(): Promise<void> {
    // It may hang up before it answers.
    await qmp.execute('quit', undefined, { deadlineMs: limits.qemuQuitMs }).catch(() => {});
    if (await waitUntilGone(limits.qemuQuitMs)) return;
    await kill();
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
    readState: () => readProcessState(halt),
    shutdown,
    halt: ({ deadlineMs }) => haltGuest(halt, deadlineMs),
    revive: () => reviveGuest(halt, () => resume(qmp)),
    end,
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

/** False when nobody can hear it: the guest never ran or has powered down, or its monitor is dead. */
async function askToPowerDown(qmp: Qmp, deadlineMs: number): Promise<boolean> {
  const callMs = Math.min(deadlineMs, limits.qmpCallMs);
  try {
    const status = await readRunState(qmp, callMs);
    if (status === 'prelaunch' || status === 'shutdown') return false;
    // A hand-over that was given up may have told QEMU to stay.
    await qmp.execute('set-action', { shutdown: 'poweroff' }, { deadlineMs: callMs });
    await qmp.execute('system_powerdown', undefined, { deadlineMs: callMs });
    return true;
  } catch {
    return false;
  }
}
