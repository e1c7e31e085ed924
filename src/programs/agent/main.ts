import { readFileSync } from 'node:fs';
import { createClock } from '#adapters/clock/boot-clock.ts';
import { createEtcdStore } from '#adapters/etcd/etcd-store.ts';
import { exitCodeOf, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { keys } from '#core/ha/keys.ts';
import type { Store } from '#ports/store.ts';
import { runAgent } from '#programs/agent/agent.ts';
import { checkClusterIdentity, checkMachine } from '#programs/cluster-identity.ts';
import { createLog, type Log } from '#programs/log.ts';
import { type NodeConfig, readNodeConfig } from '#programs/node-config.ts';
import { readConfigArgument } from '#programs/program-arguments.ts';
import { storeOptions } from '#programs/store-endpoints.ts';

/** The agent: guests, storage, replication, and the manager role when elected. A restart disturbs no guest. */
async function main(): Promise<void> {
  const config = readNodeConfig(readConfigArgument(process.argv.slice(2)));
  const log = createLog('agent', config.node.name);
  const stop = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => stop.abort());
  await using store = createEtcdStore({
    ...storeOptions(config, { keep: true }),
    onTrouble: (text) => log.warn({ event: 'store.trouble' }, text),
  });
  await waitForOwnCluster(store, config, log, stop.signal);
  const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  if (!stop.signal.aborted) await runAgent({ config, store, clock: createClock(), bootId, log }, stop.signal);
  log.info({ event: 'agent.stopped' }, 'guests go on without it');
}

/** Asks until the store answers; a store of another cluster ends the program with the reason. */
async function waitForOwnCluster(store: Store, config: NodeConfig, log: Log, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    try {
      await checkClusterIdentity(store, { clusterId: config.node.cluster, node: config.node.name });
      const bearer = await store.read(keys.nodeMachine(config.node.name));
      checkMachine(bearer?.value ?? null, { node: config.node.name, machine: config.node.machine });
      return;
    } catch (error) {
      if (!isAppError(error, 'unavailable', 'timeout')) throw error;
      log.warn({ event: 'store.waiting', err: error }, 'the store does not answer yet');
      await new Promise((resolve) => setTimeout(resolve, limits.etcdCallMs));
    }
  }
}

try {
  await main();
  process.exit(0);
} catch (error) {
  if (!isAppError(error)) throw error;
  process.stderr.write(`holdfast agent: ${formatErrorChain(error)}\n`);
  process.exit(exitCodeOf(error.kind));
}
