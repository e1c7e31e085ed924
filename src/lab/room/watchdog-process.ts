import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { AppError } from '#base/error.ts';
import { labLimits } from '#lab/lab-limits.ts';
import type { LabEvent } from '#lab/lab-event.ts';

const program = fileURLToPath(new URL('../watchdog/main.ts', import.meta.url));

/** Ahead of everything that shares the CPU by weight: a watchdog that waits for its turn is no clock. */
const realTimePriority = '20';

export type WatchdogEvent = Extract<LabEvent, { event: `watchdog-${string}` }>;
export type WatchdogProcess = { stop(): void };

/** Starts a node's watchdog and returns when it is ready for its node. Raises AppError timeout/unavailable when it does not start. */
export async function startWatchdog(
  node: string,
  place: { device: string; group: string },
  onEvent: (event: WatchdogEvent) => void,
): Promise<WatchdogProcess> {
  const argv = [program, '--device', place.device, '--group', place.group, '--link', node];
  // Without the right to real-time scheduling (a container) it runs as it is; its lateness is measured in any case.
  const script = `chrt --rr ${realTimePriority} true 2>/dev/null && exec chrt --rr ${realTimePriority} "$@"; exec "$@"`;
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', '/bin/sh', '-c', script, 'watchdog', process.execPath, ...argv], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await new Promise<void>((resolve, reject) => {
    const deadline = setTimeout(() => {
      child.kill('SIGKILL');
      reject(new AppError('timeout', `watchdog of ${node}: not ready within ${labLimits.watchdogReadyMs} ms`));
    }, labLimits.watchdogReadyMs);
    child.once('exit', () =>
      reject(new AppError('unavailable', `watchdog of ${node}: ended before it was ready; see the room's log`)),
    );
    followEvents(child, node, (event) => {
      clearTimeout(deadline);
      if ('ready' in event) resolve();
      else onEvent(event);
    });
  });
  return { stop: () => child.kill('SIGKILL') };
}

function followEvents(child: ChildProcess, node: string, take: (event: WatchdogEvent | { ready: true }) => void): void {
  if (child.stdout === null) throw new AppError('unavailable', `watchdog of ${node}: no output to read`);
  createInterface({ input: child.stdout }).on('line', (line) => {
    const event = JSON.parse(line) as { event: string };
    take(event.event === 'ready' ? { ready: true } : ({ ...event, node } as WatchdogEvent));
  });
}
