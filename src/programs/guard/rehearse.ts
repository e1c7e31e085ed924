import { setTimeout as pause } from 'node:timers/promises';
import { createEtcdStore } from '#adapters/etcd/etcd-store.ts';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { NodeConfig } from '#programs/node-config.ts';
import { storeOptions } from '#programs/store-endpoints.ts';
import { createStoreCalls } from './store-calls.ts';

/**
 * Does what a successor does before its first pet may come: loads everything, reads the settings, sees the node's records in the store. It
 * takes no lock, writes nothing and leaves the watchdog alone, so it may run beside the guard that serves. Returns how long that took since
 * the process began, in ms. Raises AppError busy when it took so long that a hand-over could outlast the watchdog, unavailable when
 * the store did not answer.
 */
export async function rehearse({ node, timing, ...config }: NodeConfig): Promise<number> {
  const deadlineMs = timing.watchdogMs;
  await using store = createEtcdStore(storeOptions({ node, timing, ...config }, { keep: false }));
  const call = createStoreCalls(store, { node: node.name, clusterId: node.cluster, machine: node.machine });
  let answer = await call({ kind: 'look', deadlineMs });
  // As the guard does: a slow machine's first connection may need more than one try's time.
  while (answer.kind !== 'sight' && performance.now() < deadlineMs) {
    await pause(limits.cliPollMs);
    answer = await call({ kind: 'look', deadlineMs });
  }
  if (answer.kind !== 'sight') {
    const why = 'problem' in answer ? answer.problem : answer.kind;
    throw new AppError(
      'unavailable',
      `rehearsing a start of the guard: the store gave no answer (${why}); nothing was handed over`,
    );
  }
  const tookMs = Math.ceil(performance.now());
  if (isQuickEnough(tookMs, timing)) return tookMs;
  throw new AppError(
    'busy',
    `rehearsing a start of the guard took ${tookMs} ms, too long beside a watchdog of ${timing.watchdogMs} ms; nothing was handed over`,
  );
}

/** Twice as long as the rehearsal, after a pet that was due when the former guard ended. */
function isQuickEnough(tookMs: number, { renewMs, watchdogMs }: NodeConfig['timing']): boolean {
  return 2 * tookMs + renewMs <= watchdogMs;
}
