import { connect as connectHttp2, type ClientHttp2Session } from 'node:http2';
import { setImmediate as immediate } from 'node:timers/promises';
import type { TLSSocket } from 'node:tls';
import { AppError } from '#base/error.ts';
import type { ByteRooms } from '#core/backup/byte-rooms.ts';
import type { SnapshotId } from '#core/backup/names.ts';
import { formatAuthority } from '#core/backup/repository.ts';
import { collectAnswer } from './answer-collector.ts';
import { connect, formatQuery, readData, refusal, type Login, type Query, type Target } from './connection.ts';
import { clientLimits } from './limits.ts';

export type WireAnswer = { status: number; bytes: Buffer };
/** `rooms`: where the memory for the answer comes from; whoever asks gives it back. */
type WireCall = {
  method: 'GET' | 'POST' | 'PUT';
  path: string;
  query?: Query;
  body?: Uint8Array | object;
  waitMs?: number;
  rooms?: ByteRooms;
};

/** One session of the backup or the reader protocol: one connection. To leave it without `finish` discards the backup. */
export type WireSession = Disposable & {
  /** The answer, whatever its status. Raises AppError when there is none. */
  ask(call: WireCall): Promise<WireAnswer>;
  /** The bytes of an answer with status 200. Raises AppError with the server's words otherwise. */
  fetch(call: WireCall): Promise<Buffer>;
  /** `data` of an answer with status 200. */
  call(call: WireCall): Promise<unknown>;
};

/** Opens a session about a snapshot. Raises AppError with the server's words when it refuses. */
export async function openSession(
  kind: 'backup' | 'reader',
  store: string,
  snapshot: SnapshotId,
  target: Target,
  login: Login,
): Promise<WireSession> {
  const socket = await connect(target);
  const query = {
    store,
    'backup-type': snapshot.type,
    'backup-id': snapshot.id,
    'backup-time': snapshot.atSeconds,
    ns: snapshot.namespace.length === 0 ? null : snapshot.namespace.join('/'),
  };
  const protocol = kind === 'backup' ? 'proxmox-backup-protocol-v1' : 'proxmox-backup-reader-protocol-v1';
  const what = kind === 'backup' ? 'starting a backup' : 'opening the snapshot';
  const onAbort = (): void => void socket.destroy();
  target.signal.addEventListener('abort', onAbort, { once: true });
  try {
    const head = [
      `GET /api2/json/${kind}${formatQuery(query)} HTTP/1.1`,
      `Host: ${formatAuthority(target.repository)}`,
      ...Object.entries(login).map(([name, value]) => `${name}: ${value}`),
      'Connection: upgrade',
      `Upgrade: ${protocol}`,
    ];
    const answer = await exchangeHeads(socket, `${head.join('\r\n')}\r\n\r\n`, what);
    if (answer.status !== 101) throw refusal(answer.status, answer.rest.toString(), what);
    const http2 = await startHttp2(socket, answer.rest);
    const session = createSession(http2, target, what);
    return {
      ...session,
      [Symbol.dispose]() {
        target.signal.removeEventListener('abort', onAbort);
        http2.destroy();
        socket.destroy();
      },
    };
  } catch (error) {
    target.signal.removeEventListener('abort', onAbort);
    socket.destroy();
    if (target.signal.aborted) throw target.signal.reason as Error;
    throw error;
  }
}

async function exchangeHeads(socket: TLSSocket, head: string, what: string): Promise<{ status: number; rest: Buffer }> {
  await new Promise<void>((resolve, reject) => {
    socket.write(head, (error) => (error ? reject(error) : resolve()));
  });
  const deadline = setTimeout(() => socket.destroy(), clientLimits.callMs);
  try {
    let received = Buffer.alloc(0);
    for (;;) {
      const at = received.indexOf('\r\n\r\n');
      const text = received.toString('latin1', 0, Math.max(0, at));
      const rest = received.subarray(at + 4);
      const wanted = Number(/^content-length: *(\d+)/im.exec(text)?.[1] ?? 0);
      const isComplete = at >= 0 && (text.includes(' 101 ') || rest.length >= wanted);
      if (isComplete) return { status: Number(text.split(' ')[1] ?? 0), rest };
      const piece = received.length > clientLimits.headBytes ? null : await nextPiece(socket);
      if (piece === null) {
        if (at >= 0) return { status: Number(text.split(' ')[1] ?? 0), rest };
        throw new AppError('unavailable', `${what}: the connection ended before the answer came`);
      }
      received = Buffer.concat([received, piece]);
    }
  } finally {
    clearTimeout(deadline);
  }
}

function nextPiece(socket: TLSSocket): Promise<Buffer | null> {
  return new Promise((resolve) => {
    const settle = (piece: Buffer | null): void => {
      socket.off('readable', onReadable).off('close', onClose);
      resolve(piece);
    };
    const onReadable = (): void => {
      const piece = socket.read() as Buffer | null;
      if (piece !== null) settle(piece);
    };
    const onClose = (): void => settle(null);
    socket.on('readable', onReadable).once('close', onClose);
    if (socket.destroyed) settle(null);
    else onReadable();
  });
}

/** http2 takes the socket only when no write is pending and it believes that h2 was negotiated. */
async function startHttp2(socket: TLSSocket, rest: Buffer): Promise<ClientHttp2Session> {
  await immediate();
  if (rest.length > 0) socket.unshift(rest);
  Object.defineProperty(socket, 'alpnProtocol', { value: 'h2' });
  const http2 = connectHttp2('https://backup', {
    createConnection: () => socket,
    maxSessionMemory: clientLimits.sessionMemoryMebibytes,
    settings: { initialWindowSize: clientLimits.windowBytes, maxFrameSize: clientLimits.frameBytes, enablePush: false },
  });
  http2.on('error', () => {}); // every open request hears of it
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => reject(new AppError('timeout', 'HTTP/2: the server said nothing')), clientLimits.connectMs);
    http2.once('remoteSettings', () => {
      clearTimeout(timer);
      resolve();
    });
    http2.once('close', () => {
      clearTimeout(timer);
      reject(new AppError('unavailable', 'HTTP/2: the connection ended at its start'));
    });
  });
  http2.setLocalWindowSize(clientLimits.windowBytes);
  return http2;
}

function createSession(http2: ClientHttp2Session, target: Target, about: string): Omit<WireSession, typeof Symbol.dispose> {
  const ask = async (call: WireCall): Promise<WireAnswer> => {
    try {
      return await request(http2, call);
    } catch (cause) {
      if (target.signal.aborted) throw target.signal.reason as Error;
      if (cause instanceof AppError) throw cause;
      throw new AppError('unavailable', `${about}: the connection to the backup server was lost`, { cause });
    }
  };
  const fetch = async (call: WireCall): Promise<Buffer> => {
    const { status, bytes } = await ask(call);
    if (status !== 200) throw refusal(status, bytes.toString(), `${call.method} ${call.path}`);
    return bytes;
  };
  return {
    ask,
    fetch,
    call: async (call) => readData((await fetch(call)).toString(), `${call.method} ${call.path}`),
  };
}

function request(
  http2: ClientHttp2Session,
  { method, path, query = {}, body, waitMs = clientLimits.streamMs, rooms }: WireCall,
): Promise<WireAnswer> {
  const isRaw = body instanceof Uint8Array;
  const content = body === undefined ? null : isRaw ? body : Buffer.from(JSON.stringify(body));
  return new Promise((resolve, reject) => {
    if (http2.destroyed || http2.closed) return reject(new Error('the connection is closed'));
    const stream = http2.request(
      {
        ':method': method,
        ':path': `/${path}${formatQuery(query)}`,
        ...(content === null
          ? {}
          : {
              'content-type': isRaw ? 'application/octet-stream' : 'application/json',
              'content-length': content.length,
            }),
      },
      { endStream: content === null },
    );
    let status = 0;
    let isWhole = false;
    const answer = collectAnswer(rooms);
    stream.setTimeout(waitMs, () => {
      reject(new AppError('timeout', `${method} ${path}: no answer in ${waitMs / 1_000} s`));
      stream.destroy();
    });
    stream.on('response', (headers) => {
      status = Number(headers[':status']);
      if (status === 200) answer.expect(Number(headers['content-length'] ?? 0));
    });
    stream.on('data', (piece: Buffer) => {
      if (!answer.add(piece)) stream.destroy(new Error('the answer is too long'));
    });
    stream.on('end', () => {
      isWhole = true;
    });
    stream.on('error', (error) => {
      // A refused upload is answered and then cut off: the answer counts.
      if (status === 0 || status === 200) reject(error);
    });
    stream.on('close', () => {
      if (status === 0 || (status === 200 && !isWhole)) {
        answer.discard();
        reject(new Error('the request was closed without a whole answer'));
      } else {
        resolve({ status, bytes: answer.take() });
      }
    });
    if (content !== null) stream.end(content);
  });
}
