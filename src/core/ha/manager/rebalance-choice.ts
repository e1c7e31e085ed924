import { criteriaWeights } from '#core/ha/manager/scores.ts';
import { topsisScores } from '#core/ha/manager/topsis.ts';

/** Choosing one move among many, at a constant cost for each: sums are corrected, not made anew. */

/** Shares of a node's cores and memory. */
export type NodeShare = { cpu: number; memory: number };

export type Candidate = { guest: string; source: number; target: number; to: string; leaves: NodeShare; arrives: NodeShare };

type Choice = { candidate: Candidate; imbalance: number };

/** Smaller differences are rounding, not a better choice; the first of equals wins. */
const tolerance = 1e-12;

/** Standard deviation over mean of the nodes' loads, a load being the mean of both shares; 0 when nothing is used. */
export function imbalanceOf(shares: readonly NodeShare[]): number {
  const loads = shares.map(loadOf);
  const mean = loads.reduce((sum, load) => sum + load, 0) / loads.length;
  if (loads.length === 0 || mean === 0) return 0;
  return Math.sqrt(loads.reduce((sum, load) => sum + (load - mean) ** 2, 0) / loads.length) / mean;
}

function loadOf({ cpu, memory }: NodeShare): number {
  return (cpu + memory) / 2;
}

/** The candidate after which the imbalance is lowest. */
export function chooseBruteForce(shares: readonly NodeShare[], candidates: readonly Candidate[]): Choice | null {
  let best: Choice | null = null;
  const after = makeImbalanceAfter(shares);
  for (const candidate of candidates) {
    const imbalance = after(candidate);
    if (best === null || imbalance < best.imbalance - tolerance) best = { candidate, imbalance };
  }
  return best;
}

/** The candidate after which the cluster ranks best by the criteria of placement. */
export function chooseByTopsis(shares: readonly NodeShare[], candidates: readonly Candidate[]): Choice | null {
  const describe = makeCriteriaAfter(shares);
  const scores = topsisScores(candidates.map(describe), criteriaWeights);
  let best: { candidate: Candidate; score: number } | null = null;
  for (const [index, candidate] of candidates.entries()) {
    const score = scores[index] ?? 0;
    if (best === null || score > best.score + tolerance) best = { candidate, score };
  }
  return best === null ? null : { candidate: best.candidate, imbalance: makeImbalanceAfter(shares)(best.candidate) };
}

function makeImbalanceAfter(shares: readonly NodeShare[]): (candidate: Candidate) => number {
  const loads = shares.map(loadOf);
  const sum = loads.reduce((total, load) => total + load, 0);
  // Deviations from the old mean: taking squares of large sums from each other would lose digits.
  const center = loads.length === 0 ? 0 : sum / loads.length;
  const squares = loads.reduce((total, load) => total + (load - center) ** 2, 0);
  return ({ source, target, leaves, arrives }) => {
    const from = loads[source] ?? 0;
    const to = loads[target] ?? 0;
    const fromAfter = from - loadOf(leaves);
    const toAfter = to + loadOf(arrives);
    const shift = (fromAfter - from + toAfter - to) / loads.length;
    const mean = center + shift;
    if (mean <= 0) return 0;
    const spread =
      squares -
      (from - center) ** 2 -
      (to - center) ** 2 +
      (fromAfter - center) ** 2 +
      (toAfter - center) ** 2 -
      loads.length * shift ** 2;
    return Math.sqrt(Math.max(0, spread) / loads.length) / mean;
  };
}

function makeCriteriaAfter(shares: readonly NodeShare[]): (candidate: Candidate) => number[] {
  const cpu = makeColumnAfter(shares.map((share) => share.cpu));
  const memory = makeColumnAfter(shares.map((share) => share.memory));
  return ({ source, target, leaves, arrives }) => [
    ...cpu(source, leaves.cpu, target, arrives.cpu),
    ...memory(source, leaves.memory, target, arrives.memory),
  ];
}

/** Root mean square and maximum of one share over all nodes after a move, each plus 1. */
function makeColumnAfter(
  values: number[],
): (source: number, leaves: number, target: number, arrives: number) => [number, number] {
  const squares = values.reduce((sum, value) => sum + value ** 2, 0);
  // Two nodes change, so one of the three fullest is always unchanged.
  const fullest = values
    .map((value, index) => ({ value, index }))
    .sort((a, b) => b.value - a.value)
    .slice(0, 3);
  return (source, leaves, target, arrives) => {
    const from = values[source] ?? 0;
    const to = values[target] ?? 0;
    const sum = squares - from ** 2 - to ** 2 + (from - leaves) ** 2 + (to + arrives) ** 2;
    const unchanged = fullest.find(({ index }) => index !== source && index !== target)?.value ?? 0;
    return [1 + Math.sqrt(Math.max(0, sum) / values.length), 1 + Math.max(unchanged, from - leaves, to + arrives)];
  };
}
