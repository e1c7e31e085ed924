/** Spread of measured values; null without any. `p99` is the nearest rank, so with few values it is the largest. */
export type Spread = { count: number; min: number; p50: number; p99: number; max: number };

export function spreadOf(values: number[]): Spread | null {
  const sorted = [...values].sort((a, b) => a - b);
  const rank = (share: number) => sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
  if (sorted.length === 0) return null;
  return { count: sorted.length, min: rank(0.000_001), p50: rank(0.5), p99: rank(0.99), max: rank(1) };
}
