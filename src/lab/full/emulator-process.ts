import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, rmSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { AppError } from '#base/error.ts';
import { fullLimits } from './full-limits.ts';
import { machineFile, type MachineSpec } from './machine-command.ts';

/** A machine's QEMU: what its power is. */
export type EmulatorProcess = {
  hasEnded(): boolean;
  /** SIGKILL; returns when it is gone. Raises AppError timeout. */
  kill(): Promise<void>;
};

/** Starts a machine's QEMU. It outlives this process, for the next drill in the same room; it ends with the room. */
export function startEmulator(spec: MachineSpec, argv: string[]): EmulatorProcess {
  const [program, ...args] = argv as [string, ...string[]];
  const log = openSync(machineFile(spec, 'log'), 'a');
  for (const name of ['qmp', 'pid'] as const) rmSync(machineFile(spec, name), { force: true });
  const child: ChildProcess = spawn(program, args, { stdio: ['ignore', log, log], detached: true });
  closeSync(log);
  return follow(spec, child.pid);
}

/** The QEMU that an earlier drill started; null when the machine has no power. */
export function adoptEmulator(spec: MachineSpec): EmulatorProcess | null {
  try {
    const found = follow(spec, Number(readFileSync(machineFile(spec, 'pid'), 'utf8')));
    return found.hasEnded() ? null : found;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

function follow(spec: MachineSpec, pid: number | undefined): EmulatorProcess {
  const hasEnded = () => pid === undefined || isGone(pid);
  return {
    hasEnded,
    async kill() {
      if (pid === undefined || hasEnded()) return;
      process.kill(pid, 'SIGKILL');
      const untilMs = performance.now() + fullLimits.killMs;
      while (!hasEnded()) {
        if (performance.now() > untilMs) throw new AppError('timeout', `taking the power of ${spec.name}: its emulator goes on`);
        await delay(20);
      }
    },
  };
}

/** A process that nobody waits for stays as a zombie: it runs no more. */
function isGone(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return /^[ZX]/.test(stat.slice(stat.lastIndexOf(')') + 2));
  } catch {
    return true;
  }
}
