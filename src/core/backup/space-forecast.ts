/** How full a store was at a time. */
export type SpaceSample = { atSeconds: number; usedBytes: number; totalBytes: number };

/** Less history than this tells nothing. */
const leastSeconds = 6 * 3_600;

/**
 * When a store is full if it goes on filling as in the samples: seconds since 1970; null when it does not fill or there is too little
 * history. A straight line is laid through the samples (least squares), so that one large backup counts no more than it lasts.
 */
export function forecastFull(samples: readonly SpaceSample[]): number | null {
  const last = samples.at(-1);
  const first = samples[0];
  if (first === undefined || last === undefined || last.atSeconds - first.atSeconds < leastSeconds) return null;
  const meanAt = samples.reduce((sum, { atSeconds }) => sum + atSeconds, 0) / samples.length;
  const meanUsed = samples.reduce((sum, { usedBytes }) => sum + usedBytes, 0) / samples.length;
  let across = 0;
  let along = 0;
  for (const { atSeconds, usedBytes } of samples) {
    across += (atSeconds - meanAt) * (usedBytes - meanUsed);
    along += (atSeconds - meanAt) ** 2;
  }
  const bytesPerSecond = along === 0 ? 0 : across / along;
  if (bytesPerSecond <= 0) return null;
  const leftBytes = Math.max(0, last.totalBytes - last.usedBytes);
  const full = last.atSeconds + leftBytes / bytesPerSecond;
  return Number.isFinite(full) && full < 253_402_300_799 ? Math.round(full) : null;
}
