import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
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
import { awaitFormer, becomeMain, createHandOver, isSuccessor, sayEnded, warmUp } from './hand-over.ts';
import { runGuard, type GuardOrders } from './loop.ts';
import { createNodeHands } from './node-hands.ts';
import { createStoreCalls } from './store-calls.ts';

/**
 * `guard/main.ts --config FILE [--successor]`. Returns the exit status: 0 after a clean stop (SIGTERM once no HA guest runs) or a hand-over
 * (SIGUSR2: a successor is started, and goes on with guests and armed watchdog when it is ready; see hand-over.ts).
 */
async function main(args: string[]): Promise<number> {
  const config = readNodeConfig(readConfigArgument(args.filter((argument) => !isSuccessor([argument]))));
  const { node, timing, watchdog } = config;
  const orders: GuardOrders = { stop: false, handOver: false, ring: () => {} };
  const log = createLog('guard', node.name);
  const clock = createClock();
  const events = createGuardEvents(log, () => clock.bootMs());
  const handOver = createHandOver(orders, events);
  let lock = isSuccessor(args) ? null : await lockNode(node.run);
  raisePriority();
  const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  process.on('SIGTERM', () => handOver.stop());
  process.on('SIGUSR2', () => handOver.begin());
  let completed: Promise<number>;
  {
    await using store = createEtcdStore({
      ...storeOptions(config, { keep: false }),
      onTrouble: (text) => log.debug({ event: 'store.said' }, text),
    });
    const callStore = createStoreCalls(store, { node: node.name, clusterId: node.cluster, machine: node.machine });
    if (lock === null) {
      await warmUp(callStore, timing);
      await awaitFormer();
      lock = await lockNode(node.run);
      becomeMain(events);
    }
    const open = (options: { whenRefused: 'disarm' | 'keep-armed' }) => openWatchdog(watchdog.device, timing.watchdogMs, options);
    const file = readFile(node.run, bootId);
    const left = readLeft(file, file !== null && file.watchdog.timeoutMs !== null);
    const { leftCounting } = left;
    const device = { open, wantedMs: timing.watchdogMs, leftCounting };
    const hands = createNodeHands(clock, createGuestCgroup(config.guests.cgroup), device, events);
    events.started({ bootId, profile: timing.profile, device: watchdog.device });
    const self = { node: node.name, bootId, timing };
    await runGuard({ self, run: node.run, device: watchdog.device, left, clock, hands, callStore, events }, orders);
    if (!orders.handOver) return 0;
    // From here to the successor's first pet nobody pets.
    hands.leave();
    lock.close();
    completed = handOver.complete();
  }
  return await completed;
}

/**
 * One guard a node: a second one would freeze what the first serves. The lock is an abstract socket, which the kernel takes away with
 * the process; it lies in the network namespace of the node.
 */
async function lockNode(run: string): Promise<Server> {
  const server = createServer();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject).listen(`\0holdfast-guard:${run}`, resolve);
  try {
    await promise;
  } catch (error) {
    throw new AppError('conflict', `another guard runs on this node (run folder ${run}); nothing was changed`, { cause: error });
  }
  return server.unref();
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
  const status = await main(process.argv.slice(2));
  if (status === 0) await sayEnded();
  process.exit(status);
} catch (error) {
  process.stderr.write(`${formatErrorChain(error)}\n`);
  process.exit(isAppError(error) ? exitCodeOf(error.kind) : 1);
}
