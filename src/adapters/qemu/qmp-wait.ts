import { setTimeout as sleep } from 'node:timers/promises';
import { AppError, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { Qmp } from '#ports/qmp.ts';

/** Opens one QMP connection, one attempt; adapters/qmp has it. */
export type ConnectQmp = (socketPath: string, options: { deadlineMs: number }) => Promise<Qmp>;

/**
 * Connects to a QEMU that is just starting: its socket may not be there yet. Raises AppError unavailable with `gone`'s words when
 * the process ends first, timeout after `deadlineMs`.
 */
export async function waitForQmp(params: {
  connectQmp: ConnectQmp;
  socketPath: string;
  gone: Promise<string>;
  deadlineMs: number;
}): Promise<Qmp> {
  const untilMs = performance.now() + params.deadlineMs;
  let end: string | null = null;
  void params.gone.then((how) => (end = how));
  for (;;) {
    const leftMs = untilMs - performance.now();
    if (end !== null) throw new AppError('unavailable', `QEMU ended before its monitor answered (${String(end)})`);
    if (leftMs <= 0) throw new AppError('timeout', `QEMU's monitor did not answer within ${params.deadlineMs} ms`);
    try {
      return await params.connectQmp(params.socketPath, { deadlineMs: leftMs });
    } catch (error) {
      if (!isAppError(error, 'unavailable')) throw error;
      await Promise.race([sleep(limits.qemuPollMs), params.gone]);
    }
  }
}
