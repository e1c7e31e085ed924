import type { Duplex } from 'node:stream';
import { AppError } from '#base/error.ts';

/** The first request on a connection, as far as an upgrade needs it. Header names in lower case. */
export type RequestHead = { method: string; target: string; headers: Readonly<Record<string, string>> };

const headLimits = { bytes: 32 * 1024, waitMs: 20_000 } as const;

/**
 * Reads the head of the first request from a connection itself: known clients of the backup protocol leave out the Host header or
 * `Connection: upgrade`, with which an HTTP server would not see an upgrade. `bytes` is all that was read, to be given back to the stream
 * for whoever goes on. null: the other side left. Raises AppError invalid for what is no request, timeout when none comes.
 */
export function readRequestHead(stream: Duplex): Promise<{ head: RequestHead; bytes: Buffer; rest: Buffer } | null> {
  return new Promise((resolve, reject) => {
    let received = Buffer.alloc(0);
    const timer = setTimeout(() => end(() => reject(new AppError('timeout', 'no request came'))), headLimits.waitMs);
    const end = (settle: () => void): void => {
      clearTimeout(timer);
      stream.off('readable', onReadable).off('close', onClose).off('error', onClose);
      settle();
    };
    const onClose = (): void => end(() => resolve(null));
    const onReadable = (): void => {
      for (let piece = stream.read() as Buffer | null; piece !== null; piece = stream.read() as Buffer | null) {
        received = Buffer.concat([received, piece]);
      }
      const at = received.indexOf('\r\n\r\n');
      if (at < 0 && received.length <= headLimits.bytes) return;
      end(() => {
        const head = at < 0 || at > headLimits.bytes ? null : parseRequestHead(received.toString('latin1', 0, at));
        if (head === null) reject(new AppError('invalid', 'this is no HTTP request'));
        else resolve({ head, bytes: received, rest: received.subarray(at + 4) });
      });
    };
    stream.on('readable', onReadable).once('close', onClose).once('error', onClose);
    onReadable();
  });
}

/** null: not the head of an HTTP/1 request. */
export function parseRequestHead(text: string): RequestHead | null {
  const [first = '', ...lines] = text.split('\r\n');
  const request = /^([A-Z]+) (\S+) HTTP\/1\.[01]$/.exec(first);
  if (request === null) return null;
  const headers: Record<string, string> = {};
  for (const line of lines) {
    const field = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*$/.exec(line);
    if (field === null) return null;
    headers[(field[1] ?? '').toLowerCase()] = field[2] ?? '';
  }
  return { method: request[1] ?? '', target: request[2] ?? '', headers };
}

/** Path components and query of a target. Empty components are dropped: the original client asks for `//api2/json/…`. */
export function splitTarget(target: string): { parts: string[]; query: Record<string, string> } {
  const mark = target.indexOf('?');
  const path = mark < 0 ? target : target.slice(0, mark);
  const query = Object.fromEntries(new URLSearchParams(mark < 0 ? '' : target.slice(mark + 1)));
  try {
    return {
      parts: path
        .split('/')
        .filter((part) => part !== '')
        .map(decodeURIComponent),
      query,
    };
  } catch (cause) {
    throw new AppError('invalid', 'the path is not percent-encoded as it should be', { cause });
  }
}
