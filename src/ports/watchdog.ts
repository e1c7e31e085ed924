/**
 * A hardware watchdog. From `openWatchdog` on it is armed: if `pet` is not called for `timeoutMs`, the machine loses power.
 */
export interface Watchdog {
  /** As read back from the device, not as asked for. */
  readonly timeoutMs: number;
  /** Synchronous: a pet must not wait behind anything. Throws when the device is gone. */
  pet(): void;
  /** Clean stop: disarms ('V' then close). Only when no HA guest runs. */
  disarm(): void;
  /** Closes it armed: the countdown goes on, for a successor that comes in time. */
  leave(): void;
}
