import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { AppError } from '#base/error.ts';
import { plainEnvironment } from './unprivileged.ts';
import { readStartTicks, type ProcessIdentity } from './process-identity.ts';

/**
 * The process first enters the guest's control group, then waits for the word that it has been written down, and only then
 * becomes QEMU (same process number and start time). So no QEMU ever runs outside its group, and none runs unknown: if the agent
 * dies in between, the word never comes and the process ends. `$1`: the group's folder, the rest: the command. It does not keep the
 * agent's standing with the out-of-memory killer: a guest goes before any program of ours.
 */
const enterThenExec =
  'echo 0 >"$1/cgroup.procs" || exit 1; echo 0 >/proc/self/oom_score_adj 2>/dev/null; shift; read -r word && [ "$word" = go ] || exit 1; exec "$@" </dev/null';

export type SpawnedGuest = { child: ChildProcess; identity: ProcessIdentity; end: Promise<string> };

/**
 * Spawns `command` inside `groupPath`, in a session of its own and with its output in `logPath`, so that it outlives the agent.
 * It does nothing yet: call `letGo` once its identity is written down. Raises AppError unavailable when it cannot be spawned.
 */
export async function spawnGuest(params: {
  vmid: number;
  groupPath: string;
  command: string[];
  logPath: string;
}): Promise<SpawnedGuest> {
  const log = openSync(params.logPath, 'a', 0o640);
  let child: ChildProcess;
  try {
    child = spawn('/bin/sh', ['-c', enterThenExec, 'guest-spawn', params.groupPath, ...params.command], {
      detached: true,
      stdio: ['pipe', log, log],
      cwd: '/',
      env: plainEnvironment(),
    });
  } finally {
    closeSync(log);
  }
  const end = watchChild(child);
  // Written to a process that has ended already: `end` tells why.
  child.stdin?.on('error', () => {});
  const startTicks = child.pid === undefined ? null : readStartTicks(child.pid);
  if (child.pid === undefined || startTicks === null) {
    throw new AppError('unavailable', `start guest ${params.vmid}: its process ended at once: ${await end}`);
  }
  return { child, identity: { pid: child.pid, startTicks }, end };
}

/** Lets the process become QEMU. */
export function letGo({ child }: SpawnedGuest): void {
  child.stdin?.end('go\n');
}

function watchChild(child: ChildProcess): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  child.once('error', (error) => resolve(error.message));
  child.once('exit', (code, signal) => resolve(signal === null ? `exit code ${code}` : `killed by ${signal}`));
  return promise;
}
