import {
  constants,
  performServerHandshake,
  type ServerHttp2Session,
  type ServerHttp2Stream,
  type IncomingHttpHeaders,
} from 'node:http2';
import type { TLSSocket } from 'node:tls';
import { setImmediate as immediate } from 'node:timers/promises';
import { AppError } from '#base/error.ts';
import { createByteRooms, type ByteRooms } from '#core/backup/byte-rooms.ts';
import { passingCalls, protocolLimits, rawCalls, type Call } from './backup-protocol.ts';
import { encodeReply, replyToError, type Reply } from './reply.ts';
import { splitTarget } from './request-head.ts';

const mebibyte = 1024 * 1024;
const windows = { streamBytes: 32 * mebibyte, frameBytes: 4 * mebibyte, streams: 256, sessionMemoryMebibytes: 1_024 } as const;

/**
 * Turns a TLS connection into the HTTP/2 session of a backup or a reader. The order matters: Node aborts the process when http2 takes a
 * socket while a write to it is pending, so the 101 has to be written, and one turn of the loop has to pass, before it does.
 */
export async function upgradeToHttp2(socket: TLSSocket, protocol: string, rest: Uint8Array): Promise<ServerHttp2Session> {
  const head = `HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: ${protocol}\r\n\r\n`;
  await new Promise<void>((resolve, reject) => {
    socket.write(head, (error) => (error ? reject(error) : resolve()));
  });
  await immediate();
  if (socket.destroyed) throw new AppError('unavailable', 'the client left during the upgrade');
  if (rest.length > 0) socket.unshift(rest);
  // The session began as HTTP/1.1; http2 asks the socket what was negotiated.
  Object.defineProperty(socket, 'alpnProtocol', { value: 'h2' });
  socket.setNoDelay(true);
  const session = performServerHandshake(socket, {
    maxSessionMemory: windows.sessionMemoryMebibytes,
    settings: { initialWindowSize: windows.streamBytes, maxFrameSize: windows.frameBytes, maxConcurrentStreams: windows.streams },
  } as Parameters<typeof performServerHandshake>[1]);
  session.setLocalWindowSize(windows.streamBytes);
  return session;
}

/** Answers every request of a session by `answer`, several at once. Resolves when the session is over and nothing is under way. */
export async function serveSession(
  session: ServerHttp2Session,
  answer: (call: Call) => Promise<Reply>,
  onTrouble: (error: unknown) => void,
): Promise<void> {
  const underWay = new Set<Promise<void>>();
  const serving: Serving = { answer, onTrouble, rooms: createByteRooms() };
  session.on('error', onTrouble);
  session.on('stream', (stream, headers) => {
    const job = serveStream(stream, headers, serving).finally(() => underWay.delete(job));
    underWay.add(job);
  });
  await new Promise<void>((resolve) => {
    if (session.destroyed) resolve();
    else session.once('close', resolve);
  });
  await Promise.allSettled(underWay);
}

type Serving = { answer: (call: Call) => Promise<Reply>; onTrouble: (error: unknown) => void; rooms: ByteRooms };

async function serveStream(
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
  { answer, onTrouble, rooms }: Serving,
): Promise<void> {
  stream.on('error', onTrouble);
  const method = String(headers[':method'] ?? '');
  const { parts, query } = splitTarget(String(headers[':path'] ?? ''));
  const path = (parts[0] === 'api2' ? parts.slice(2) : parts).join('/');
  const name = `${method} ${path}`;
  const room = passingCalls.has(name) ? takeRoom(rooms, headers) : null;
  try {
    const isRaw = rawCalls.has(name);
    const body = await readBody(stream, isRaw ? protocolLimits.bodyBytes : protocolLimits.jsonBytes, room);
    const isParameters = !isRaw && body.length > 0;
    const params = isParameters ? { ...query, ...parseBody(body, String(headers['content-type'] ?? '')) } : query;
    const reply = await answer({ method, path, params, body: isParameters ? new Uint8Array() : body });
    respond(stream, encodeReply(reply));
    // Not when the stream was cut: what was handed on to be sent is still looked at.
    if (reply.kind === 'bytes' && reply.onSent !== undefined) stream.once('finish', reply.onSent);
  } catch (error) {
    const { status, text } = replyToError(error);
    if (status >= 500) onTrouble(error);
    respond(stream, encodeReply({ kind: 'text', status, text }));
  } finally {
    if (room !== null) rooms.give(room);
  }
}

/** null: the length of the body is not known, or not one that is taken. */
function takeRoom(rooms: ByteRooms, headers: IncomingHttpHeaders): Uint8Array | null {
  const length = Number(headers['content-length'] ?? 0);
  return length > 0 && length <= protocolLimits.bodyBytes ? rooms.take(length) : null;
}

/** `room`: where a body of just this length goes. */
async function readBody(stream: ServerHttp2Stream, maxBytes: number, room: Uint8Array | null): Promise<Buffer> {
  const parts: Buffer[] = [];
  let length = 0;
  // One that is refused in the middle is still to be answered.
  for await (const part of stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    if (length + part.length > (room?.length ?? maxBytes))
      throw new AppError('invalid', `the body is longer than ${room?.length ?? maxBytes} bytes`);
    if (room === null) parts.push(part);
    else room.set(part, length);
    length += part.length;
  }
  if (room !== null) return Buffer.from(room.buffer, room.byteOffset, length);
  return parts.length === 1 ? parts[0]! : Buffer.concat(parts);
}

/** A JSON object or a form. Raises AppError invalid. */
export function parseBody(body: Buffer, contentType: string): Record<string, unknown> {
  if (contentType.startsWith('application/x-www-form-urlencoded'))
    return Object.fromEntries(new URLSearchParams(body.toString()));
  try {
    const value = JSON.parse(body.toString()) as unknown;
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch (cause) {
    throw new AppError('invalid', 'the body is not JSON', { cause });
  }
  throw new AppError('invalid', 'the body is not a JSON object');
}

function respond(stream: ServerHttp2Stream, { status, contentType, body }: ReturnType<typeof encodeReply>): void {
  if (stream.destroyed || stream.headersSent) return;
  stream.respond({ ':status': status, 'content-type': contentType, 'content-length': body.length });
  stream.end(body);
  // A refused upload is not read to its end.
  if (!stream.readableEnded) stream.once('finish', () => stream.close(constants.NGHTTP2_NO_ERROR));
}
