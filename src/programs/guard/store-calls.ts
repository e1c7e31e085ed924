import { AppError, formatErrorChain } from '#base/error.ts';
import type { GuardEffect, StoreAnswer } from '#core/ha/guard-state.ts';
import { readSight } from '#core/ha/guard-store.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { Store } from '#ports/store.ts';
import { checkClusterIdentity, checkMachine } from '#programs/cluster-identity.ts';

export type StoreEffect = Extract<GuardEffect, { kind: 'look' | 'commit' }>;
export type GuardStore = Pick<Store, 'read' | 'list' | 'commit'>;

/** A store that forgets its own deadline must not leave the guard waiting for ever. */
const graceMs = 500;

/**
 * Returns the function that carries out one call of the guard. It always settles, at the latest a little after the call's deadline,
 * and never rejects for expected trouble. Before anything else it makes sure that the store is the cluster's own
 * and that this machine still bears the node's name.
 */
export function createStoreCalls(
  store: GuardStore,
  self: { node: string; clusterId: string; machine: string | null },
): (effect: StoreEffect) => Promise<StoreAnswer> {
  const { node, clusterId } = self;
  let identified = false;

  async function look(deadlineMs: number): Promise<StoreAnswer> {
    if (!identified) {
      await checkClusterIdentity(store, { clusterId, node });
      identified = true;
    }
    const { entries } = await store.list(`${prefixes.nodes}${node}/`, { deadlineMs });
    // At every look, for a take that loses against a replacement looks again.
    checkMachine(entries.find((entry) => entry.key === keys.nodeMachine(node))?.value ?? null, self);
    return { kind: 'sight', sight: readSight(node, entries) };
  }

  async function commit(effect: Extract<StoreEffect, { kind: 'commit' }>): Promise<StoreAnswer> {
    const outcome = await store.commit(effect.compares, effect.writes, { deadlineMs: effect.deadlineMs });
    switch (outcome.kind) {
      case 'committed':
        return { kind: 'committed', revision: outcome.revision };
      case 'conflict':
        return { kind: 'conflict' };
      case 'maybe':
        return { kind: 'failed', problem: formatErrorChain(outcome.cause) };
    }
  }

  return async (effect) => {
    const late = Promise.withResolvers<StoreAnswer>();
    const timer = setTimeout(() => {
      late.resolve({ kind: 'failed', problem: `no answer in ${effect.deadlineMs} ms` });
    }, effect.deadlineMs + graceMs);
    const call = effect.kind === 'look' ? look(effect.deadlineMs) : commit(effect);
    try {
      return await Promise.race([call.catch(describeFailure), late.promise]);
    } finally {
      clearTimeout(timer);
    }
  };
}

function describeFailure(error: unknown): StoreAnswer {
  if (!(error instanceof AppError)) throw error;
  return { kind: 'failed', problem: formatErrorChain(error) };
}
