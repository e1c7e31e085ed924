import { connect as connectHttp2, type ClientHttp2Session } from 'node:http2';
import { request as httpsRequest } from 'node:https';
import { setImmediate as immediate } from 'node:timers/promises';
import { connect as connectTls, type TLSSocket } from 'node:tls';

/** A client of the protocol written from its description alone, for tests. */
export type Answer = { status: number; text: string; bytes: Buffer };
export type Client = {
  socket: TLSSocket;
  http2: ClientHttp2Session;
  call(method: string, path: string, query?: Record<string, string | number>, body?: Uint8Array | object): Promise<Answer>;
};
const mebibyte = 1024 * 1024;

function connect(port: number, alpn: boolean): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = connectTls(
      { port, host: '127.0.0.1', rejectUnauthorized: false, ...(alpn ? { ALPNProtocols: ['http/1.1'] } : {}) },
      () => resolve(socket),
    );
    socket.once('error', reject);
  });
}

/** Sends `head` and reads the answer's head; what came after it goes back to the socket. */
async function exchangeHeads(socket: TLSSocket, head: string): Promise<{ status: number; head: string; rest: Buffer }> {
  socket.write(head);
  let received = Buffer.alloc(0);
  while (received.indexOf('\r\n\r\n') < 0) {
    const piece = (await new Promise((resolve) => {
      socket.once('data', resolve);
      socket.once('close', () => resolve(null));
    })) as Buffer | null;
    if (piece === null) break;
    received = Buffer.concat([received, piece]);
  }
  socket.pause();
  const at = received.indexOf('\r\n\r\n');
  const text = received.toString('latin1', 0, Math.max(0, at));
  return { status: Number(text.split(' ')[1] ?? 0), head: text, rest: received.subarray(at + 4) };
}

/** `lines`: header lines of the upgrade request, as clients really send them. Resolves to the refusal when there is one. */
export async function upgrade(
  port: number,
  target: string,
  lines: string[],
  alpn = true,
): Promise<Client | { status: number; rest: string }> {
  const socket = await connect(port, alpn);
  const answer = await exchangeHeads(socket, `GET ${target} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`);
  if (answer.status !== 101) {
    socket.destroy();
    return { status: answer.status, rest: answer.rest.toString() };
  }
  await immediate();
  if (answer.rest.length > 0) socket.unshift(answer.rest);
  Object.defineProperty(socket, 'alpnProtocol', { value: 'h2' });
  const http2 = connectHttp2('https://localhost', {
    createConnection: () => socket,
    maxSessionMemory: 1_000,
    settings: { initialWindowSize: 2 ** 31 - 1, maxFrameSize: 4 * mebibyte },
  });
  http2.on('error', () => {});
  await new Promise<void>((resolve) => void http2.once('remoteSettings', () => resolve()));
  http2.setLocalWindowSize(2 ** 31 - 1);
  return { socket, http2, call: (method, path, query, body) => call(http2, method, path, query, body) };
}

function call(
  http2: ClientHttp2Session,
  method: string,
  path: string,
  query: Record<string, string | number> = {},
  body?: Uint8Array | object,
): Promise<Answer> {
  const text = new URLSearchParams(
    Object.entries(query).map(([key, value]): [string, string] => [key, String(value)]),
  ).toString();
  const content = body === undefined ? null : body instanceof Uint8Array ? body : Buffer.from(JSON.stringify(body));
  return new Promise((resolve, reject) => {
    const stream = http2.request(
      { ':method': method, ':path': `/${path}${text === '' ? '' : `?${text}`}`, 'content-type': 'application/json' },
      { endStream: content === null },
    );
    let status = 0;
    const pieces: Buffer[] = [];
    stream.on('response', (headers) => {
      status = Number(headers[':status']);
    });
    stream.on('data', (piece: Buffer) => pieces.push(piece));
    stream.on('error', reject);
    stream.on('close', () => {
      const bytes = Buffer.concat(pieces);
      if (status === 0) reject(new Error('the stream was closed without an answer'));
      else resolve({ status, bytes, text: bytes.toString() });
    });
    if (content !== null) stream.end(content);
  });
}

/** An ordinary request. */
export async function rest(
  port: number,
  method: string,
  path: string,
  headers: Record<string, string>,
  body?: string,
): Promise<{ status: number; text: string }> {
  const { status, bytes } = await send(port, method, path, headers, body);
  return { status, text: bytes.toString() };
}

/** The same for answers, or bodies, that are no text: GET without a body, POST with one. */
export function restBytes(
  port: number,
  path: string,
  headers: Record<string, string>,
  body?: Uint8Array,
): Promise<{ status: number; bytes: Buffer }> {
  return send(port, body === undefined ? 'GET' : 'POST', path, headers, body);
}

function send(
  port: number,
  method: string,
  path: string,
  headers: Record<string, string>,
  body?: string | Uint8Array,
): Promise<{ status: number; bytes: Buffer }> {
  return new Promise((resolve, reject) => {
    const request = httpsRequest(
      { port, host: '127.0.0.1', method, path, headers, rejectUnauthorized: false, agent: false },
      (response) => {
        const pieces: Buffer[] = [];
        response.on('data', (piece: Buffer) => pieces.push(piece));
        response.on('error', reject);
        response.on('end', () => resolve({ status: response.statusCode ?? 0, bytes: Buffer.concat(pieces) }));
      },
    );
    request.on('error', reject);
    request.end(body);
  });
}
