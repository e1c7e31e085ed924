import type { ClusterFacts, GuestRecordFacts, NodeRecordFacts } from '#core/ha/cluster-round/facts.ts';
import { grantedEpoch, whyUnusable } from '#core/ha/cluster-round/node-health.ts';
import type { AgentMode, OrderResult } from '#core/ha/manager/facts.ts';
import { targetOf } from '#core/ha/manager/memory.ts';

/**
 * How the order of the guest's entry ended; null: it has not, or nobody has told.
 *
 *   move: the home gave the guest up under the order ──> the target can take it: ok; the home can start it again: failed; else wait
 *   else: what the home's agent told under the order's number, epoch and generation
 */
export function orderResult(
  facts: ClusterFacts,
  { record, status }: GuestRecordFacts,
  nodes: ReadonlyMap<string, NodeRecordFacts>,
): OrderResult | null {
  const entry = record.ha;
  if (entry === undefined) return null;
  const usable = (name: string, accepts: readonly AgentMode[] = []): boolean => {
    const node = nodes.get(name);
    return node !== undefined && whyUnusable(facts, node, accepts) === null;
  };
  const target = targetOf(entry.state);
  if (target !== null && record.order === null && record.givenUp?.orderId === entry.orderId) {
    const isCurrent = record.givenUp.copiedTo.includes(target);
    if (isCurrent && usable(target)) return 'ok';
    // A node that its guests are to leave keeps those that have nowhere to go.
    return usable(record.home, ['maintenance']) ? 'failed' : null;
  }
  const epoch = grantedEpoch(nodes.get(record.home));
  const tells =
    status?.end !== undefined &&
    status.end.orderId === entry.orderId &&
    status.node === record.home &&
    status.generation === record.generation &&
    status.nodeEpoch === epoch;
  if (tells) return status.end?.result ?? null;
  // It was found running where it is: a move before its start has no point.
  const isFound = entry.state.kind === 'start-requested-elsewhere' && runsAtHome({ record, status }, nodes.get(record.home));
  return isFound ? 'skipped' : null;
}

/** The guest's home tells that it runs there, under its present epoch. */
export function runsAtHome(
  { record, status }: Pick<GuestRecordFacts, 'record' | 'status'>,
  home: NodeRecordFacts | undefined,
): boolean {
  return status?.state === 'running' && status.node === record.home && status.nodeEpoch === grantedEpoch(home);
}
