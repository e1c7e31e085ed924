import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { setTimeout as wait } from 'node:timers/promises';
import { createServer as createTlsServer, type TLSSocket } from 'node:tls';
import { AppError, isAppError } from '#base/error.ts';
import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import { readText } from '#core/backup/wire-parameters.ts';
import type { Log } from '#programs/log.ts';
import type { Access } from './access.ts';
import { encodeReply, replyToError, type Reply } from './reply.ts';
import { answerRest, isRawRest, restBodyBytes } from './rest.ts';
import { readRequestHead, splitTarget, type RequestHead } from './request-head.ts';
import { parseBody } from './session-stream.ts';
import { runBackup, runReader, upgradeProtocols, type Connection, type Stores } from './sessions.ts';

export type ServerParts = {
  stores: Stores;
  access: Access;
  functions: ByteFunctions;
  log: Log;
  tls: { cert: string | Buffer; key: string | Buffer };
  /** Guessing gets slow answers: three seconds, but for tests. */
  refusalDelayMs: number;
};

/**
 * The one port of the backup server. The head of a connection's first request is read here: an upgrade to the backup or the reader
 * protocol goes to its session, everything else, with the bytes read so far, to the HTTP server.
 */
export async function startServer(
  parts: ServerParts,
  listen: { host: string; port: number },
): Promise<{ port: number; close(): Promise<void> }> {
  const open = new Set<TLSSocket>();
  const http = createHttpServer((request, response) => void serveRequest(parts, request, response));
  http.on('upgrade', (request: IncomingMessage, socket: TLSSocket, rest: Buffer) => {
    const head: RequestHead = { method: request.method ?? '', target: request.url ?? '', headers: flatHeaders(request) };
    void serveUpgrade(parts, head, { socket, rest, isUpgraded: false });
  });
  const tls = createTlsServer({ ...parts.tls, ALPNProtocols: ['http/1.1'] }, (socket) => {
    open.add(socket);
    socket.once('close', () => open.delete(socket));
    socket.on('error', () => socket.destroy());
    void route(parts, socket, (bytes) => {
      if (bytes.length > 0) socket.unshift(bytes);
      http.emit('connection', socket);
    });
  });
  tls.on('tlsClientError', () => {}); // a peer that cannot speak TLS is no news
  await new Promise<void>((resolve, reject) => {
    tls.once('error', reject).listen(listen.port, listen.host, resolve);
  });
  const address = tls.address();
  return {
    port: typeof address === 'object' && address !== null ? address.port : listen.port,
    async close() {
      const closed = new Promise<void>((resolve) => void tls.close(() => resolve()));
      for (const socket of open) socket.destroy();
      await closed;
    },
  };
}

async function route(parts: ServerParts, socket: TLSSocket, toHttp: (bytes: Buffer) => void): Promise<void> {
  try {
    const read = await readRequestHead(socket);
    if (read === null) return;
    if (protocolOf(read.head) === null) toHttp(read.bytes);
    else await serveUpgrade(parts, read.head, { socket, rest: read.rest, isUpgraded: false });
  } catch (error) {
    answerPlainly(socket, error);
  }
}

/** Serves a session until its end. Errors before the upgrade are ordinary replies. */
async function serveUpgrade(parts: ServerParts, head: RequestHead, connection: Connection): Promise<void> {
  const { socket } = connection;
  try {
    const { parts: path, query } = splitTarget(head.target);
    const protocol = protocolOf(head);
    const isCall = head.method === 'GET' && path[0] === 'api2' && path.length === 3;
    if (protocol === null || !isCall || path[2] !== protocol)
      throw new AppError('missing', `no upgrade at ${head.target.split('?')[0]}`);
    const caller = await identify(parts, head.headers, head.method);
    const run = protocol === 'backup' ? runBackup : runReader;
    await run(parts, caller, query, connection);
    socket.end();
  } catch (error) {
    if (!isAppError(error)) parts.log.error({ event: 'session.failed', err: error }, 'a session failed');
    if (connection.isUpgraded) socket.destroy();
    else answerPlainly(socket, error);
  }
}

/** Which protocol a request asks for, however the header is spelled. */
function protocolOf({ headers }: RequestHead): 'backup' | 'reader' | null {
  const wanted = headers['upgrade']?.toLowerCase();
  if (wanted === upgradeProtocols.backup) return 'backup';
  return wanted === upgradeProtocols.reader ? 'reader' : null;
}

async function serveRequest(parts: ServerParts, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const reply = await answer(parts, request).catch((error: unknown): Reply => {
    if (!isAppError(error)) parts.log.error({ event: 'request.failed', err: error }, 'a request failed');
    return { kind: 'text', ...replyToError(error) };
  });
  const { status, contentType, body } = encodeReply(reply);
  if (response.destroyed) return;
  response.writeHead(status, { 'content-type': contentType, 'content-length': body.length });
  response.end(body);
}

async function answer(parts: ServerParts, request: IncomingMessage): Promise<Reply> {
  const method = request.method ?? '';
  const { parts: full, query } = splitTarget(request.url ?? '');
  const path = full.slice(2);
  if (full[0] !== 'api2' || (full[1] !== 'json' && full[1] !== 'extjs'))
    throw new AppError('missing', `Path '${request.url}' not found.`);
  const isRaw = isRawRest(method, path);
  const body = await readRequestBody(request, isRaw ? restBodyBytes.raw : restBodyBytes.parameters);
  const params = isRaw || body.length === 0 ? query : { ...query, ...parseBody(body, request.headers['content-type'] ?? '') };
  if (path.join('/') === 'ping') return { kind: 'json', data: { pong: true } };
  if (method === 'POST' && path.join('/') === 'access/ticket') {
    const user = readText(params, 'username', 128);
    const password = readText(params, 'password', 4_096);
    return { kind: 'json', data: await slowly(parts, () => parts.access.login(user, password)) };
  }
  const caller = await identify(parts, flatHeaders(request), method);
  return answerRest({ method, path, params, body, caller }, parts.stores, parts.access);
}

function identify(parts: ServerParts, headers: Readonly<Record<string, string>>, method: string): Promise<string> {
  return slowly(parts, () => parts.access.identify(headers, method));
}

async function slowly<Result>(parts: ServerParts, job: () => Result): Promise<Result> {
  try {
    return job();
  } catch (error) {
    if (isAppError(error, 'unauthenticated')) await wait(parts.refusalDelayMs);
    throw error;
  }
}

async function readRequestBody(request: IncomingMessage, maxBytes: number): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let length = 0;
  for await (const piece of request as AsyncIterable<Buffer>) {
    length += piece.length;
    if (length > maxBytes) throw new AppError('invalid', `the body is longer than ${maxBytes} bytes`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}

function flatHeaders(request: IncomingMessage): Record<string, string> {
  return Object.fromEntries(
    Object.entries(request.headers).map(([name, value]) => [name, Array.isArray(value) ? value.join(', ') : (value ?? '')]),
  );
}

/** An ordinary reply on a bare connection, which then ends. */
function answerPlainly(socket: TLSSocket, error: unknown): void {
  if (socket.destroyed) return;
  const { status, contentType, body } = encodeReply({ kind: 'text', ...replyToError(error) });
  const head = `HTTP/1.1 ${status} \r\ncontent-type: ${contentType}\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n`;
  socket.end(Buffer.concat([Buffer.from(head), body]));
}
