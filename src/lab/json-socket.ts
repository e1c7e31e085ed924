import { createServer, connect, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { AppError, formatErrorChain, isAppError, type ErrorKind } from '#base/error.ts';
import { limits } from '#base/limits.ts';

/** One line of JSON there, one line back. The lab's parts talk like this over unix sockets, which reach across network namespaces. */
type Answer<T> = { ok: true; value: T } | { ok: false; kind: ErrorKind; message: string };

/**
 * Serves requests at `path`, each by `handle`; what it throws becomes the caller's AppError. Returns when it listens.
 */
export async function serveJson<Request, Response>(
  path: string,
  handle: (request: Request) => Promise<Response> | Response,
): Promise<Server> {
  const answer = async (line: string): Promise<Answer<Response>> => {
    try {
      return { ok: true, value: await handle(JSON.parse(line) as Request) };
    } catch (error) {
      return { ok: false, kind: isAppError(error) ? error.kind : 'unavailable', message: formatErrorChain(error) };
    }
  };
  const server = createServer((socket: Socket) => {
    socket.on('error', () => socket.destroy()); // the caller gave up: its own deadline has told it
    createInterface({ input: socket }).on('line', (line) => {
      if (line.length > limits.jsonLineBytes) socket.destroy();
      else void answer(line).then((result) => socket.end(`${JSON.stringify(result)}\n`));
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, resolve);
  });
  return server;
}

/** Asks once. Raises the AppError of the other side, timeout, or unavailable when nobody listens. */
export function askJson<Request, Response>(what: string, path: string, request: Request, deadlineMs: number): Promise<Response> {
  return new Promise((resolve, reject) => {
    let text = '';
    const socket = connect(path);
    const deadline = setTimeout(() => {
      socket.destroy();
      reject(new AppError('timeout', `${what}: no answer at ${path} within ${deadlineMs} ms`));
    }, deadlineMs);
    socket.setEncoding('utf8');
    socket.on('connect', () => socket.write(`${JSON.stringify(request)}\n`));
    socket.on('data', (chunk: string) => (text += chunk));
    socket.on('error', (cause) => {
      clearTimeout(deadline);
      reject(new AppError('unavailable', `${what}: nobody answers at ${path}`, { cause }));
    });
    socket.on('end', () => {
      clearTimeout(deadline);
      try {
        const result = JSON.parse(text) as Answer<Response>;
        if (result.ok) resolve(result.value);
        else reject(new AppError(result.kind, `${what}: ${result.message}`));
      } catch (cause) {
        reject(new AppError('unavailable', `${what}: the connection to ${path} ended without an answer`, { cause }));
      }
    });
  });
}
