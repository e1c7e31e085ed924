/**
 * TOPSIS: ranks alternatives by how near they are to the best and how far from the worst value of every criterion. All criteria
 * here are costs, to be kept low. Method: Hwang and Yoon 1981, "Multiple Attribute Decision Making".
 */

/**
 * Returns a score from 0 (worst in everything) to 1 (best in everything) for each row. `rows` hold one value per criterion.
 * Alternatives that do not differ all score 0.
 */
export function topsisScores(rows: readonly (readonly number[])[], weights: readonly number[]): number[] {
  const columns = weights.map((weight, index) => describeColumn(rows, index, weight));
  return rows.map((row) => {
    let toBest = 0;
    let toWorst = 0;
    for (const [index, column] of columns.entries()) {
      const value = (row[index] ?? 0) * column.scale;
      toBest += (column.weight * (value - column.best)) ** 2;
      toWorst += (column.weight * (value - column.worst)) ** 2;
    }
    const [best, worst] = [Math.sqrt(toBest), Math.sqrt(toWorst)];
    return best + worst === 0 ? 0 : worst / (best + worst);
  });
}

function describeColumn(
  rows: readonly (readonly number[])[],
  index: number,
  weight: number,
): { weight: number; scale: number; best: number; worst: number } {
  let squares = 0;
  let lowest = Infinity;
  let highest = -Infinity;
  for (const row of rows) {
    const value = row[index] ?? 0;
    squares += value ** 2;
    lowest = Math.min(lowest, value);
    highest = Math.max(highest, value);
  }
  const scale = squares === 0 ? 0 : 1 / Math.sqrt(squares);
  return { weight, scale, best: lowest * scale, worst: highest * scale };
}
