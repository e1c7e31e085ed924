import type { Socket } from 'node:net';
import { AppError } from '#base/error.ts';

const maxLineBytes = 4_096;

/**
 * Reads one line of JSON from a fresh connection and leaves everything after it to the next reader. Raises AppError timeout after
 * `deadlineMs`, unavailable when the peer hangs up, invalid when it is no JSON object.
 */
export function readFirstLine(socket: Socket, what: string, deadlineMs: number): Promise<Record<string, unknown>> {
  return new Promise((resolve, reject) => {
    let held = Buffer.alloc(0);
    const stop = (): void => {
      clearTimeout(timer);
      socket.pause();
      socket.off('data', take).off('close', gone).off('error', gone);
    };
    const fail = (error: AppError): void => {
      stop();
      reject(error);
    };
    const gone = (cause?: unknown): void =>
      fail(new AppError('unavailable', `${what}: the peer hung up`, cause instanceof Error ? { cause } : {}));
    const timer = setTimeout(() => fail(new AppError('timeout', `${what}: nothing came within ${deadlineMs} ms`)), deadlineMs);
    const take = (chunk: Buffer): void => {
      held = Buffer.concat([held, chunk]);
      const end = held.indexOf(0x0a);
      if (end === -1 && held.length <= maxLineBytes) return;
      stop();
      if (end === -1) return reject(new AppError('invalid', `${what}: the first line is too long`));
      if (end + 1 < held.length) socket.unshift(held.subarray(end + 1));
      const parsed = parseObject(held.subarray(0, end).toString());
      if (parsed === null) reject(new AppError('invalid', `${what}: the first line makes no sense`));
      else resolve(parsed);
    };
    socket.on('data', take).on('close', gone).on('error', gone);
    socket.resume();
  });
}

function parseObject(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}
