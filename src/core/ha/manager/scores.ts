import type { GuestFacts } from '#core/ha/manager/facts.ts';
import { topsisScores } from '#core/ha/manager/topsis.ts';
import { loadOn, sharesOf, type Usage } from '#core/ha/manager/usage.ts';

/**
 * How good a place each node is for one more guest: the lower, the better.
 *
 *   count            guests on the node
 *   by-size, by-load what the whole cluster would look like with the guest there, weighed by TOPSIS
 */

/** Weights of the four criteria below: memory counts more than cores, the fullest node more than the average. */
export const criteriaWeights = [1, 2, 5, 10] as const;

/** Returns a score for every node of `usage`; lower is better. */
export function scoreNodes(usage: Usage, guest: GuestFacts): Map<string, number> {
  if (usage.placement === 'count') return new Map(usage.nodes.map((node) => [node.name, node.guests]));
  const cpu = usage.nodes.map((node) => sharesOf(node).cpu);
  const memory = usage.nodes.map((node) => sharesOf(node).memory);
  const rows = usage.nodes.map((node, index) => {
    const load = loadOn(usage.placement, node.size, guest);
    const added = sharesOf({
      ...node,
      microCores: node.microCores + load.microCores,
      memoryBytes: node.memoryBytes + load.memoryBytes,
    });
    return describeCluster(cpu.with(index, added.cpu), memory.with(index, added.memory));
  });
  const scores = topsisScores(rows, criteriaWeights);
  return new Map(usage.nodes.map((node, index) => [node.name, -(scores[index] ?? 0)]));
}

/** The four criteria: root mean square and maximum of the cores' and of the memory's shares over all nodes. */
function describeCluster(cpu: number[], memory: number[]): number[] {
  return [1 + rootMeanSquare(cpu), 1 + Math.max(...cpu), 1 + rootMeanSquare(memory), 1 + Math.max(...memory)];
}

function rootMeanSquare(values: number[]): number {
  // Sorted, so that clusters that differ only in which node carries what come out equal to the last bit.
  const squares = values.map((value) => value ** 2).sort((a, b) => a - b);
  return Math.sqrt(squares.reduce((sum, square) => sum + square, 0) / values.length);
}
