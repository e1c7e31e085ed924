import type { Socket } from 'node:net';
import { AppError } from '#base/error.ts';

/** Reads exact amounts from a socket, one reader at a time, and lets the socket wait while nobody reads. */
export function createByteReader(socket: Socket, name: string) {
  let chunks: Buffer[] = [];
  let buffered = 0;
  let ended: Error | null = null;
  let wanted: { bytes: number; resolve: (data: Buffer) => void; reject: (error: Error) => void } | null = null;
  const pauseAtBytes = 8 << 20;

  function take(bytes: number): Buffer {
    const whole = chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks, buffered);
    const rest = whole.subarray(bytes);
    chunks = rest.length > 0 ? [rest] : [];
    buffered = rest.length;
    return whole.subarray(0, bytes);
  }

  function serve(): void {
    if (wanted === null) return;
    const { bytes, resolve, reject } = wanted;
    if (buffered >= bytes) {
      wanted = null;
      if (socket.isPaused()) socket.resume();
      resolve(take(bytes));
    } else if (ended !== null) {
      wanted = null;
      reject(ended);
    }
  }

  function end(cause?: unknown): void {
    ended ??= cause instanceof AppError ? cause : new AppError('unavailable', `NBD ${name}: the connection is gone`, { cause });
    serve();
  }

  socket.on('data', (chunk: Buffer) => {
    chunks.push(chunk);
    buffered += chunk.length;
    if (wanted === null && buffered > pauseAtBytes) socket.pause();
    serve();
  });
  socket.on('error', end);
  socket.on('close', () => end());

  return {
    /** The next `bytes` bytes. Raises AppError unavailable when the connection ends first. */
    read(bytes: number): Promise<Buffer> {
      return new Promise((resolve, reject) => {
        wanted = { bytes, resolve, reject };
        if (socket.isPaused() && buffered < bytes) socket.resume();
        serve();
      });
    },
  };
}

export type ByteReader = ReturnType<typeof createByteReader>;
