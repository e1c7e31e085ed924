import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { ProcessState } from '#core/guest/process-state.ts';
import type { Qmp } from '#ports/qmp.ts';

/** QEMU's run states (QEMU docs/interop, RunState), as far as they matter here. */
type RunState = 'prelaunch' | 'running' | 'paused' | 'shutdown' | (string & {});

/**
 * A guest's end with its disks kept open. `markPath`: a file that is there from the first step on, so that an agent that finds the
 * CPUs stopped knows that it is for good, and not for a replication point that an earlier agent was taking.
 */
export type HaltParts = { vmid: number; qmp: Qmp; markPath: string };

export async function readRunState(qmp: Qmp, deadlineMs: number = limits.qmpCallMs): Promise<RunState> {
  const { status } = await qmp.execute<{ status: RunState }>('query-status', undefined, { deadlineMs });
  return status;
}

/** What the process does; stopped CPUs without the mark are a replication point's, and go on after it. */
export async function readProcessState({ qmp, markPath }: HaltParts): Promise<ProcessState> {
  const status = await readRunState(qmp);
  if (status === 'prelaunch') return 'prelaunch';
  if (status === 'shutdown') return 'off';
  if (!existsSync(markPath)) return 'running';
  return status === 'running' ? 'halting' : 'halted';
}

/** Powers the guest down; when that takes longer than `deadlineMs`, stops its CPUs, which is to it as if the power were cut. */
export async function haltGuest(parts: HaltParts, deadlineMs: number): Promise<'halted' | 'off'> {
  const { qmp, markPath, vmid } = parts;
  writeFileSync(markPath, '');
  // A powered-down QEMU ends at once unless told otherwise, and with it the disks that are still to be copied.
  await qmp.execute('set-action', { shutdown: 'pause' });
  const untilMs = performance.now() + deadlineMs;
  if ((await readRunState(qmp)) === 'running') await qmp.execute('system_powerdown');
  while ((await readRunState(qmp)) === 'running' && performance.now() < untilMs) await sleep(limits.guestExitPollMs);
  // `stop` flushes every disk, and changes nothing when the guest has powered down meanwhile.
  await qmp.execute('stop');
  const status = await readRunState(qmp);
  if (status === 'running') throw new AppError('conflict', `halt guest ${vmid}: QEMU goes on running it after it was stopped`);
  return status === 'shutdown' ? 'off' : 'halted';
}

/** Lets a halted guest go on. The mark goes last: cut in between, the next agent finds it still halting and does this again. */
export async function reviveGuest(parts: HaltParts, resume: () => Promise<void>): Promise<void> {
  const { qmp, markPath, vmid } = parts;
  await qmp.execute('set-action', { shutdown: 'poweroff' });
  const status = await readRunState(qmp);
  if (status === 'shutdown') throw new AppError('conflict', `revive guest ${vmid}: it has powered down`);
  if (status !== 'running') await resume();
  rmSync(markPath, { force: true });
}
