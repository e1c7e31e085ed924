import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { constants, setPriority } from 'node:os';
import { createGuestCgroup } from '#adapters/cgroup/guest-cgroup.ts';
import { createClock } from '#adapters/clock/boot-clock.ts';
import { createEtcdStore } from '#adapters/etcd/etcd-store.ts';
import { openWatchdog } from '#adapters/watchdog/watchdog.ts';
import { readLeft } from '#core/ha/guard-report.ts';
import { AppError, exitCodeOf, formatErrorChain, isAppError } from '#base/error.ts';
import { readGuardState, type GuardLocalState } from '#programs/local-state.ts';
import { createLog } from '#programs/log.ts';
import { readNodeConfig } from '#programs/node-config.ts';
import { readConfigArgument } from '#programs/program-arguments.ts';
import { storeOptions } from '#programs/store-endpoints.ts';
import { createGuardEvents } from './events.ts';
import { runGuard, type GuardOrders } from './loop.ts';
import { createNodeHands } from './node-hands.ts';
import { rehearse } from './rehearse.ts';
import { createStoreCalls } from './store-calls.ts';

/**
 * `guard/main.ts --config FILE [--rehearse]`. Ends with 0 after a clean stop (SIGTERM once no HA guest runs) or a hand-over (SIGUSR2: at once,
 * guests and armed watchdog left to a successor, which has to come within the watchdog's time).
 * With `--rehearse` it only tells how soon it could serve, see `rehearse`.
 */
async function main(args: string[]): Promise<void> {
  const config = readNodeConfig(readConfigArgument(args.filter((argument) => argument !== '--rehearse')));
  if (args.includes('--rehearse')) {
    process.stdout.write(`a start of the guard takes ${await rehearse(config)} ms\n`);
    return;
  }
  const { node, timing, watchdog } = config;
  await lockNode(node.run);
  raisePriority();
  const log = createLog('guard', node.name);
  const clock = createClock();
  const events = createGuardEvents(log, () => clock.bootMs());
  const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  const orders: GuardOrders = { stop: false, handOver: false, ring: () => {} };
  process.on('SIGTERM', () => {
    orders.stop = true;
    orders.ring();
  });
  process.on('SIGUSR2', () => {
    orders.handOver = true;
    orders.ring();
  });
  await using store = createEtcdStore({
    ...storeOptions(config, { keep: false }),
    onTrouble: (text) => log.debug({ event: 'store.said' }, text),
  });
  const open = (options: { whenRefused: 'disarm' | 'keep-armed' }) => openWatchdog(watchdog.device, timing.watchdogMs, options);
  const file = readFile(node.run, bootId);
  const left = readLeft(file, file !== null && file.watchdog.timeoutMs !== null);
  const { leftCounting } = left;
  const device = { open, wantedMs: timing.watchdogMs, leftCounting };
  const hands = createNodeHands(clock, createGuestCgroup(config.guests.cgroup), device, events);
  events.started({ bootId, profile: timing.profile, device: watchdog.device });
  await runGuard(
    {
      self: { node: node.name, bootId, timing },
      run: node.run,
      device: watchdog.device,
      left,
      clock,
      hands,
      callStore: createStoreCalls(store, { node: node.name, clusterId: node.cluster, machine: node.machine }),
      events,
    },
    orders,
  );
}

/**
 * One guard a node: a second one would freeze what the first serves. The lock is an abstract socket, which the kernel takes away with
 * the process; it lies in the network namespace of the node.
 */
async function lockNode(run: string): Promise<void> {
  const server = createServer();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject).listen(`\0holdfast-guard:${run}`, resolve);
  try {
    await promise;
  } catch (error) {
    throw new AppError('conflict', `another guard runs on this node (run folder ${run}); nothing was changed`, { cause: error });
  }
  server.unref();
}

/** What an earlier guard of this boot left in guard.json. One that cannot be understood is as good as none: then everything is guarded. */
function readFile(run: string, bootId: string): GuardLocalState | null {
  try {
    const file = readGuardState(run);
    return file?.bootId === bootId ? file : null;
  } catch (error) {
    if (!isAppError(error)) throw error;
    return null;
  }
}

/** Guests compete for the same cores. Not being allowed to is no reason not to guard. */
function raisePriority(): void {
  try {
    setPriority(constants.priority.PRIORITY_HIGHEST);
  } catch {
    return;
  }
}

try {
  await main(process.argv.slice(2));
  process.exit(0);
} catch (error) {
  process.stderr.write(`${formatErrorChain(error)}\n`);
  process.exit(isAppError(error) ? exitCodeOf(error.kind) : 1);
}
