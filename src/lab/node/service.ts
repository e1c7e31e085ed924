import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { killGroup, makeGroup, waitUntilEmpty } from '#lab/control-group.ts';
import { labLimits } from '#lab/lab-limits.ts';
import type { ServiceSpec } from '#lab/lab-spec.ts';
import { setCpuPriority } from '#lab/node/cpu-priority.ts';
import type { ServiceState } from '#lab/node/init-messages.ts';

export type ServiceEvent =
  | { event: 'service-started'; service: string; count: number }
  | { event: 'service-exited'; service: string; code: number | null; signal: string | null };

/** One supervised process, kept in its own control group so that nothing it leaves behind outlives it. */
export type Service = {
  state(): ServiceState;
  start(): void;
  /** SIGTERM, then the whole group is killed. Returns when nothing is left. */
  stop(): Promise<void>;
};

export type ServicePlace = { sysGroup: string; logDirectory: string; report: (event: ServiceEvent) => void };

/** Makes the service, not started. */
export function createService(spec: ServiceSpec, place: ServicePlace): Service {
  const group = join(place.sysGroup, spec.name);
  makeGroup(group);
  let wanted = false;
  let child: ChildProcess | null = null;
  let starts = 0;
  /** Settles when the end of the last start was taken note of. */
  let ended: Promise<void> = Promise.resolve();

  const onExit = async (code: number | null, signal: string | null) => {
    child = null;
    place.report({ event: 'service-exited', service: spec.name, code, signal });
    // As systemd does (KillMode=control-group): a restart begins with an empty group.
    killGroup(group);
    await waitUntilEmpty(group);
    if (!wanted || spec.restart === 'never') return;
    setTimeout(() => {
      if (wanted && child === null) launch();
    }, labLimits.serviceRestartMs);
  };
  const launch = () => {
    starts += 1;
    child = spawnInGroup(spec, group, place.logDirectory);
    place.report({ event: 'service-started', service: spec.name, count: starts });
    const started = child;
    ended = new Promise((resolve) => {
      started.once('exit', (code, signal) => {
        void onExit(code, signal);
        resolve();
      });
    });
  };
  return {
    state: () => ({ name: spec.name, wanted, running: child !== null, starts }),
    start() {
      wanted = true;
      if (child === null) launch();
    },
    async stop() {
      wanted = false;
      child?.kill('SIGTERM');
      try {
        await waitUntilEmpty(group, labLimits.serviceStopMs);
      } catch {
        killGroup(group);
        await waitUntilEmpty(group);
      }
      await ended;
    },
  };
}

function spawnInGroup(spec: ServiceSpec, group: string, logDirectory: string): ChildProcess {
  const log = openSync(join(logDirectory, `${spec.name}.log`), 'a');
  // The shell enters the group before it becomes the service: no moment of the service is spent outside.
  const child = spawn('/bin/sh', ['-c', 'echo 0 >"$0/cgroup.procs" && exec "$@"', group, ...spec.argv], {
    stdio: ['ignore', log, log],
    // A session of its own: the kernel shares CPU between sessions first (autogroup) and by nice value only within one.
    detached: true,
  });
  closeSync(log);
  child.once('error', (error) => {
    throw error;
  });
  if (child.pid !== undefined) setCpuPriority(child.pid, spec.nice);
  return child;
}
