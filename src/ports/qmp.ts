/** One QMP connection (QEMU or qemu-storage-daemon). */
export type QmpCommand = { execute: string; arguments?: Record<string, unknown> };
export type QmpEvent = { event: string; data: Record<string, unknown>; timestampMs: number };

export interface Qmp {
  /** Raises AppError: `conflict` with QEMU's words when QEMU refuses, `timeout`, `unavailable` when the connection is gone. */
  execute<T = unknown>(command: string, args?: Record<string, unknown>, options?: { deadlineMs?: number }): Promise<T>;
  /** Writes all commands at once without waiting in between; answers in order, each a result or the refusal. */
  pipeline(commands: QmpCommand[], options?: { deadlineMs?: number }): Promise<({ ok: unknown } | { error: Error })[]>;
  /** Calls the listener for each event from now on; returns the function that stops it. */
  onEvent(listener: (event: QmpEvent) => void): () => void;
  /** First event from now on for which `wanted` is true. Raises AppError timeout/unavailable. */
  waitForEvent(wanted: (event: QmpEvent) => boolean, options: { deadlineMs: number }): Promise<QmpEvent>;
  /** Settles when the connection is gone. */
  readonly closed: Promise<void>;
  close(): void;
}
