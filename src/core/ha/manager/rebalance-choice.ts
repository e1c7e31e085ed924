import { criteriaWeights } from '#core/ha/manager/scores.ts';
import { noteRow, openColumns, scoreRow, weighColumns } from '#core/ha/manager/topsis.ts';

/**
 * Choosing one move among all guests on all nodes: a constant cost for each, since sums are corrected instead of made anew, and nothing
 * is kept of those that lose.
 */

/** Shares of a node's cores and memory. */
export type NodeShare = { cpu: number; memory: number };

/** A guest with all that move with it. Nodes are told by their place in the list of nodes. */
export type Mover = {
  guest: string;
  source: number;
  targets: readonly number[];
  leaves: NodeShare;
  /** What arrives, by node: the same guest is a larger share of a smaller node. */
  arrives: readonly NodeShare[];
};

export type Move = { guest: string; target: number; imbalance: number };

/** Smaller differences are rounding, not a better choice; the first of equals wins. */
const tolerance = 1e-12;

const nothing: NodeShare = { cpu: 0, memory: 0 };

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

/** The move after which the imbalance is lowest. Movers come in id order, their targets in name order. */
export function chooseBruteForce(shares: readonly NodeShare[], movers: readonly Mover[]): Move | null {
  const after = makeImbalanceAfter(shares);
  let best: Move | null = null;
  for (const mover of movers) {
    for (const target of mover.targets) {
      const imbalance = after(mover, target);
      if (best === null || imbalance < best.imbalance - tolerance) best = { guest: mover.guest, target, imbalance };
    }
  }
  return best;
}

/** The move after which the cluster ranks best by the criteria of placement. */
export function chooseByTopsis(shares: readonly NodeShare[], movers: readonly Mover[]): Move | null {
  const describe = makeCriteriaAfter(shares);
  const row = new Float64Array(criteriaWeights.length);
  const columns = openColumns(criteriaWeights);
  for (const mover of movers) {
    for (const target of mover.targets) {
      describe(mover, target, row);
      noteRow(columns, row);
    }
  }
  const weighed = weighColumns(columns);
  let best: { mover: Mover; target: number; score: number } | null = null;
  for (const mover of movers) {
    for (const target of mover.targets) {
      describe(mover, target, row);
      const score = scoreRow(weighed, row);
      if (best === null || score > best.score + tolerance) best = { mover, target, score };
    }
  }
  if (best === null) return null;
  return { guest: best.mover.guest, target: best.target, imbalance: makeImbalanceAfter(shares)(best.mover, best.target) };
}

function makeImbalanceAfter(shares: readonly NodeShare[]): (mover: Mover, target: number) => number {
  const loads = shares.map(loadOf);
  const count = loads.length;
  // Deviations from the old mean: taking squares of large sums from each other would lose digits.
  const center = loads.reduce((total, load) => total + load, 0) / count;
  const squares = loads.reduce((total, load) => total + (load - center) ** 2, 0);
  return (mover, target) => {
    const from = (loads[mover.source] ?? 0) - center;
    const to = (loads[target] ?? 0) - center;
    const fromAfter = from - loadOf(mover.leaves);
    const toAfter = to + loadOf(mover.arrives[target] ?? nothing);
    const shift = (fromAfter - from + toAfter - to) / count;
    const mean = center + shift;
    if (mean <= 0) return 0;
    const spread = squares - from * from - to * to + fromAfter * fromAfter + toAfter * toAfter - count * shift * shift;
    return Math.sqrt(Math.max(0, spread) / count) / mean;
  };
}

function makeCriteriaAfter(shares: readonly NodeShare[]): (mover: Mover, target: number, row: Float64Array) => void {
  const cpu = makeColumnAfter(shares.map((share) => share.cpu));
  const memory = makeColumnAfter(shares.map((share) => share.memory));
  return ({ source, leaves, arrives }, target, row) => {
    const arrived = arrives[target] ?? nothing;
    cpu(source, leaves.cpu, target, arrived.cpu, row, 0);
    memory(source, leaves.memory, target, arrived.memory, row, 2);
  };
}

type WriteColumn = (source: number, leaves: number, target: number, arrives: number, row: Float64Array, at: number) => void;

/** Writes root mean square and maximum of one share over all nodes after a move, each plus 1. */
function makeColumnAfter(values: number[]): WriteColumn {
  const squares = values.reduce((sum, value) => sum + value ** 2, 0);
  // Two nodes change, so one of the three fullest is always unchanged.
  const fullest = values.map((value, index) => ({ value, index })).sort((a, b) => b.value - a.value);
  const none = { value: 0, index: -1 };
  const [first = none, second = none, third = none] = fullest;
  return (source, leaves, target, arrives, row, at) => {
    const from = values[source] ?? 0;
    const to = values[target] ?? 0;
    const fromAfter = from - leaves;
    const toAfter = to + arrives;
    let unchanged = first;
    if (first.index === source || first.index === target) {
      unchanged = second.index === source || second.index === target ? third : second;
    }
    const sum = squares - from * from - to * to + fromAfter * fromAfter + toAfter * toAfter;
    row[at] = 1 + Math.sqrt(Math.max(0, sum) / values.length);
    row[at + 1] = 1 + Math.max(unchanged.value, fromAfter, toAfter);
  };
}
