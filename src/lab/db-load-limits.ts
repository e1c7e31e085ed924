/** Waits of the database client. */
export const dbLoadLimits = {
  /** TCP connect to the guest: its kernel answers in a few milliseconds, or it is not there yet. */
  connectMs: 250,
  /** From there until the server said hello: an emulated CPU needs 0.1 s, on a busy machine ten times that. */
  handshakeMs: 4_000,
  /** An insert or a look that takes longer is taken for a lost connection. */
  queryMs: 2_000,
  /** Pause between two attempts to connect: how finely "answering again" is measured. */
  retryMs: 50,
  /** Reading everything back at the end. */
  verifyMs: 60_000,
  /** Rows read back at a time. */
  verifyRows: 5_000,
} as const;
