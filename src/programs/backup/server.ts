import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';
import { setTimeout as wait } from 'node:timers/promises';
import { createServer as createTlsServer, type TLSSocket } from 'node:tls';
import { AppError, isAppError } from '#base/error.ts';
import { readText } from '#core/backup/wire-parameters.ts';
import type { Log } from '#programs/log.ts';
import type { CheckContent } from './incoming-chunk.ts';
import { encodeReply, replyToError, type Reply, type RestReply, type StreamReply } from './reply.ts';
import { answerRest, findRest, restBodyBytes } from './rest.ts';
import type { RestContext } from './rest/context.ts';
import { readRequestHead, splitTarget, type RequestHead } from './request-head.ts';
import { parseBody } from './session-stream.ts';
import { runBackup, runReader, upgradeProtocols, type Connection } from './sessions.ts';

export type ServerParts = Omit<RestContext, 'caller' | 'body'> & {
  /** Looks into chunks that come, away from the event loop if it can. */
  checkContent: CheckContent;
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
  const http = createHttpServer({ requireHostHeader: false }, (request, response) => void serveRequest(parts, request, response));
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
    if (!isCall || (path[2] !== 'backup' && path[2] !== 'reader'))
      throw new AppError('missing', `no upgrade at ${head.target.split('?')[0]}`);
    if (protocol !== path[2])
      throw new AppError('invalid', `upgrade: ${upgradeProtocols[path[2]]} is spoken here, not what was asked for`);
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
  const isExtjs = splitTarget(request.url ?? '').parts[1] === 'extjs';
  const reply = await answer(parts, request).catch((error: unknown): Reply => {
    if (!isAppError(error)) parts.log.error({ event: 'request.failed', err: error }, 'a request failed');
    return { kind: 'text', ...replyToError(error) };
  });
  if (reply.kind === 'stream') return sendStream(parts, reply, response);
  const { status, contentType, body } = encodeReply(isExtjs ? extjsReply(reply) : reply);
  if (response.destroyed) return;
  const isReadWhole = request.complete;
  response.writeHead(status, {
    'content-type': contentType,
    'content-length': body.length,
    ...(isReadWhole ? {} : { connection: 'close' }),
  });
  response.end(body);
  if (!isReadWhole) request.resume(); // what is still on its way would cut the answer off
}

async function sendStream({ log }: ServerParts, reply: StreamReply, response: ServerResponse): Promise<void> {
  try {
    response.writeHead(200, {
      'content-type': 'application/octet-stream',
      ...(reply.sizeBytes === null ? {} : { 'content-length': reply.sizeBytes }),
    });
    await pipeline(reply.content, response);
  } catch (error) {
    // The head is out: all that can be done is to break off, so that nobody takes a part for the whole.
    log.debug({ event: 'download.broken-off', err: error }, 'a download was broken off');
    response.destroy();
  } finally {
    reply.close();
  }
}

async function answer(parts: ServerParts, request: IncomingMessage): Promise<RestReply> {
  const method = request.method ?? '';
  const { parts: full, query } = splitTarget(request.url ?? '');
  const path = full.slice(2);
  const isApi = full[0] === 'api2' && (full[1] === 'json' || full[1] === 'extjs');
  if (isApi && method === 'POST' && path.join('/') === 'access/ticket') return logIn(parts, request, query);
  const found = isApi ? findRest({ method, path }) : null;
  const isOpen = found?.route.permission.kind === 'anybody';
  const caller = isOpen ? '' : await identify(parts, flatHeaders(request), method);
  if (found === null) throw new AppError('missing', `Path '${full.join('/')}' not found.`);
  const isRaw = found.route.body === 'raw';
  const body = await readRequestBody(request, isRaw ? restBodyBytes.raw : restBodyBytes.parameters);
  const params = isRaw ? query : mergeBody(query, body, request);
  return answerRest(found, params, { ...parts, caller, body });
}

async function logIn(parts: ServerParts, request: IncomingMessage, query: Record<string, string>): Promise<Reply> {
  const params = mergeBody(query, await readRequestBody(request, restBodyBytes.parameters), request);
  const user = readText(params, 'username', 128);
  const password = readText(params, 'password', 4_096);
  return { kind: 'json', data: await slowly(parts, () => parts.access.login(user, password)) };
}

function mergeBody(query: Record<string, string>, body: Buffer, request: IncomingMessage): Record<string, unknown> {
  return body.length === 0 ? query : { ...query, ...parseBody(body, request.headers['content-type'] ?? '') };
}

/** The other envelope, of the original's own web pages: always 200, and what went wrong inside. */
function extjsReply(reply: Reply): Reply {
  if (reply.kind !== 'text') return reply.kind === 'json' ? { ...reply, attributes: { ...reply.attributes, success: 1 } } : reply;
  const { status, text } = reply;
  return { kind: 'json', data: null, attributes: { success: 0, message: text, status } };
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
  // The connection outlives a refusal: that has to be answered.
  for await (const piece of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
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
