const mebibyte = 1024 * 1024;

/** Bounds of the client's side of the protocol. */
export const clientLimits = {
  /** TCP and TLS, also over a slow line. */
  connectMs: 15_000,
  /** An ordinary call; the server takes its time to refuse a login (3 s). */
  callMs: 60_000,
  /** Silence on one request of a session, with chunks queued behind others. */
  streamMs: 120_000,
  /** The server makes everything durable before it answers to `finish`. */
  finishMs: 600_000,
  /** Requests with chunks that are under way; below this a spinning disk at the other end is not kept busy. */
  inFlight: 16,
  /** Entries of one append; older servers take no more in one body. */
  appendEntries: 128,
  /** An index of 64 TiB. */
  answerBytes: 512 * mebibyte,
  headBytes: 32 * 1024,
  windowBytes: 2 ** 31 - 1,
  frameBytes: 4 * mebibyte,
  /** Node counts queued uploads against it; its default of 10 MB ends a session with three chunks under way. */
  sessionMemoryMebibytes: 1_024,
} as const;
