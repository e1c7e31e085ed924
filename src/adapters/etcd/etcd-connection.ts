import * as http2 from 'node:http2';
import { connect as connectPlain, isIP, type Socket } from 'node:net';
import { connect as connectTls, type SecureContext } from 'node:tls';
import type { Transport } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';

export type EtcdTls = { caFile: string; certFile: string; keyFile: string };

/** Certificates as read from their files, understood once: reading them again costs as much as the handshake that follows. */
export type TlsMaterial = SecureContext;

/** One HTTP/2 session to one member. It never reconnects: whoever needs another opens another. */
export interface EtcdConnection {
  readonly transport: Transport;
  /** No new call can start on it. */
  readonly gone: boolean;
  /** What the member has sent so far, in bytes: one that sends is slow, not dead. */
  readonly receivedBytes: number;
  close(): void;
}

/** The request never left this machine: another member may be asked without fear of doing something twice. */
export class NotSent extends Error {
  constructor(why: string, options?: ErrorOptions) {
    super(why, options);
    this.name = 'NotSent';
  }
}

/** Room for a whole snapshot of the record without waiting for window updates. */
const windowBytes = 4 << 20;

/**
 * Connects within `connectMs`, which a living kernel does whatever its programs do, and has the handshake done within `handshakeMs`, which is a
 * processor's work on both sides. The connection counts as made when the member's own SETTINGS frame has arrived: only then is its
 * process known to be alive (a frozen one accepts connections too) and our certificate accepted (TLS 1.3 refuses it after the
 * client's handshake is over). Raises NotSent.
 */
export async function openConnection(
  endpoint: string,
  tls: TlsMaterial | null,
  waits: { connectMs: number; handshakeMs: number },
  signal: AbortSignal,
): Promise<EtcdConnection> {
  const socket = openSocket(endpoint, tls);
  const session = http2.connect(endpoint, {
    createConnection: () => socket,
    settings: { enablePush: false, initialWindowSize: windowBytes },
  });
  const ready = Promise.withResolvers<void>();
  session.once('remoteSettings', () => ready.resolve());
  session.on('error', (error) => ready.reject(error)); // stays: an error later ends the calls, and must not end the process
  // A TLS alert from the server reaches the socket only: Node 24's session then says neither "error" nor "close".
  socket.on('error', (error) => ready.reject(error));
  socket.once('close', () => ready.reject(new Error('the connection was closed')));
  const late = (waitMs: number) => ready.reject(new Error(`no answer in ${Math.round(waitMs)} ms`));
  const timers = [
    setTimeout(() => socket.connecting && late(waits.connectMs), waits.connectMs),
    setTimeout(() => late(waits.handshakeMs), waits.handshakeMs),
  ];
  const abort = () => ready.reject(signal.reason);
  if (signal.aborted) abort();
  else signal.addEventListener('abort', abort, { once: true });
  try {
    await ready.promise;
    session.setLocalWindowSize(windowBytes);
    return wrapSession(endpoint, session, socket);
  } catch (cause) {
    end(session, socket);
    throw new NotSent(`connect to ${endpoint}`, { cause });
  } finally {
    for (const timer of timers) clearTimeout(timer);
    signal.removeEventListener('abort', abort);
  }
}

/** A socket of our own: a session that is destroyed while it still connects leaves its socket open (Node 24), for a minute or more. */
function openSocket(endpoint: string, material: TlsMaterial | null): Socket {
  const { hostname: host, port } = new URL(endpoint);
  if (material === null) return connectPlain({ host, port: Number(port || 80) });
  const servername = isIP(host) === 0 ? host : undefined; // a name for the server's choice of certificate; addresses are not allowed there
  return connectTls({
    secureContext: material,
    host,
    port: Number(port || 443),
    ALPNProtocols: ['h2'],
    ...(servername && { servername }),
  });
}

function end(session: http2.ClientHttp2Session, socket: Socket): void {
  session.destroy();
  socket.destroy();
}

function wrapSession(endpoint: string, session: http2.ClientHttp2Session, socket: Socket): EtcdConnection {
  let leaving = false;
  session.once('goaway', () => {
    leaving = true;
  });
  const isGone = () => leaving || session.closed || session.destroyed || socket.destroyed;
  const sessionManager = {
    authority: new URL(endpoint).origin,
    // oxlint-disable-next-line typescript/require-await -- the interface wants a promise, and a throw here must become a rejection
    async request(method: string, path: string, headers: http2.OutgoingHttpHeaders, options: http2.ClientSessionRequestOptions) {
      if (isGone()) throw new NotSent(`the connection to ${endpoint} is gone`);
      return session.request({ ...headers, ':method': method, ':path': path }, options);
    },
    notifyResponseByteRead() {}, // for keep-alive pings, which etcd punishes; liveness is asked for in-band
  };
  return {
    transport: createGrpcTransport({ baseUrl: endpoint, sessionManager }),
    get gone() {
      return isGone();
    },
    get receivedBytes() {
      return socket.bytesRead;
    },
    close() {
      end(session, socket);
    },
  };
}
