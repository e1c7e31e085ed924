/** Lets `bytesPerSecond` through on average, a quarter of a second's worth at once. */
export type TokenBucket = {
  /** Takes `bytes`; returns how many milliseconds the sender must pause before its next piece. */
  take(bytes: number, nowMs: number): number;
};

/** A full bucket; `nowMs` is any steady clock, the same as for `take`. */
export function createTokenBucket(bytesPerSecond: number, nowMs: number): TokenBucket {
  const capacity = bytesPerSecond / 4;
  let tokens = capacity;
  let filledMs = nowMs;
  return {
    take(bytes, now) {
      tokens = Math.min(capacity, tokens + ((now - filledMs) * bytesPerSecond) / 1000);
      filledMs = now;
      tokens -= bytes; // a debt: pieces are passed on whole and paid for afterwards
      return tokens >= 0 ? 0 : (-tokens * 1000) / bytesPerSecond;
    },
  };
}
