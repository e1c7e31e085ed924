/**
 * TOPSIS: ranks alternatives by how near they are to the best and how far from the worst value of every criterion. All criteria
 * here are costs, to be kept low. Method: Hwang and Yoon 1981, "Multiple Attribute Decision Making".
 *
 * In two passes over rows of one value per criterion, so that hundreds of thousands of alternatives need not be kept: `noteRow` for
 * each, `weighColumns` once, then `scoreRow` for each.
 */
export type Columns = { weight: number; squares: number; lowest: number; highest: number }[];

/** `factor`: weight over the column's norm. */
export type WeighedColumns = { factor: number; lowest: number; highest: number }[];

export function openColumns(weights: readonly number[]): Columns {
  return weights.map((weight) => ({ weight, squares: 0, lowest: Infinity, highest: -Infinity }));
}

export function noteRow(columns: Columns, row: ArrayLike<number>): void {
  for (let index = 0; index < columns.length; index += 1) {
    const column = columns[index];
    const value = row[index] ?? 0;
    if (column === undefined) continue;
    column.squares += value * value;
    if (value < column.lowest) column.lowest = value;
    if (value > column.highest) column.highest = value;
  }
}

export function weighColumns(columns: Columns): WeighedColumns {
  return columns.map(({ weight, squares, lowest, highest }) => ({
    factor: squares === 0 ? 0 : weight / Math.sqrt(squares),
    lowest,
    highest,
  }));
}

/** From 0 (worst in everything) to 1 (best in everything). Alternatives that do not differ all score 0. */
export function scoreRow(columns: WeighedColumns, row: ArrayLike<number>): number {
  let toBest = 0;
  let toWorst = 0;
  for (let index = 0; index < columns.length; index += 1) {
    const column = columns[index];
    if (column === undefined) continue;
    const value = row[index] ?? 0;
    const aboveBest = column.factor * (value - column.lowest);
    const belowWorst = column.factor * (column.highest - value);
    toBest += aboveBest * aboveBest;
    toWorst += belowWorst * belowWorst;
  }
  const best = Math.sqrt(toBest);
  const worst = Math.sqrt(toWorst);
  return best + worst === 0 ? 0 : worst / (best + worst);
}

/** Scores for a few rows at once, in their order. */
export function topsisScores(rows: readonly (readonly number[])[], weights: readonly number[]): number[] {
  const columns = openColumns(weights);
  for (const row of rows) noteRow(columns, row);
  const weighed = weighColumns(columns);
  return rows.map((row) => scoreRow(weighed, row));
}
