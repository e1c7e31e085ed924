/** What a probe guest says of itself in one datagram (src/lab/guests/probe.c writes it). */
export type ProbeDatagram = {
  vmid: number;
  generation: number;
  /** Newest number durable on both of its disks when this was sent. */
  counter: number;
  /** Drawn once a boot: tells two boots apart, whatever the generation. */
  bootRandom: string;
  /** The guest's own boot-time clock: goes on while it is frozen. */
  uptimeMs: number;
  wallMs: number;
  /** Longest write of a block and its number since boot, flushes included. */
  maxWriteMs: number;
  /** How long the write in progress has been hanging; 0: none. */
  writingMs: number;
  ioErrors: number;
  /** The number found on the counter disk at boot. */
  recoveredCounter: number;
  /** Whether the data disk agreed with it; null while it is still being read. */
  consistent: boolean | null;
  /** The first slot that disagreed; empty otherwise. */
  detail: string;
};

/**
 * One datagram as it arrived. `arrivedMonoMs` is this machine's CLOCK_MONOTONIC (comparable between processes of one machine, never steps);
 * `arrivedAtMs` is the wall clock, for people. `lateMs`: how long the collector itself had been kept from looking, so that arrivals up to this
 * much earlier share one time.
 */
export type WitnessRecord = ProbeDatagram & { arrivedAtMs: number; arrivedMonoMs: number; lateMs: number; from: string };

const numberFields = [
  'vmid',
  'generation',
  'counter',
  'uptimeMs',
  'wallMs',
  'maxWriteMs',
  'writingMs',
  'ioErrors',
  'recoveredCounter',
] as const;

/** Reads one datagram; null when it is not one of a probe guest. */
export function parseProbeDatagram(text: string): ProbeDatagram | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof value !== 'object' || value === null) return null;
  const fields = value as Record<string, unknown>;
  const numbersRight = numberFields.every((field) => Number.isSafeInteger(fields[field]));
  const textRight = typeof fields['bootRandom'] === 'string' && typeof fields['detail'] === 'string';
  const stateRight = fields['consistent'] === null || typeof fields['consistent'] === 'boolean';
  return numbersRight && textRight && stateRight ? (fields as ProbeDatagram) : null;
}
