/** Bounds of a live restore: a guest that runs while its disks still stream in. Whoever tries it out may shorten them. */
export const liveLimits = {
  /** A guest's read waits this long for data of the backup; then the guest is paused until it is there, and notices nothing. */
  readMs: 15_000,
  /** QEMU holds a guest's reads this long while the agent, which serves them, is restarted; then it pauses the guest. */
  reconnectSeconds: 15,
  /** While the guest waits for chunks, and this long after, only so many are under way: what it asks for next shares the line with them. */
  calmMs: 1_000,
  busyWidth: 4,
  /** A chunk that takes longer than this has others before it on the line: fewer are asked for at once. */
  lagMs: 500,
  /** A backup server that was lost is tried again after this, doubling up to the next value. */
  retryMs: 1_000,
  retryMaxMs: 15_000,
  /** A chunk that cannot be had, for it is gone or damaged there, is asked for again after this: a server may be mended. */
  badChunkMs: 30_000,
  /** What has arrived is made durable and written down this often; the rest of it is fetched again after a power cut. */
  saveMs: 5_000,
  /** A paused guest is looked at this often. */
  lookMs: 1_000,
  /** As nice(2) counts: a guest waits for these threads. */
  nice: 5,
} as const;

export type LiveLimits = { [Name in keyof typeof liveLimits]: number };
