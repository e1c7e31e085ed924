import { request as httpRequest } from 'node:http';
import { isIP } from 'node:net';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { AppError, type ErrorKind } from '#base/error.ts';
import { formatAuthority, isToken, type Repository } from '#core/backup/repository.ts';
import { formatFingerprint } from '#core/backup/crypt-key.ts';
import { clientLimits } from './limits.ts';

/** `fingerprint`: SHA-256 of the server's certificate; null: it must be signed by an authority this machine trusts. */
export type Target = { repository: Repository; fingerprint: Uint8Array | null; signal: AbortSignal };
/** Headers that prove who asks. */
export type Login = Readonly<Record<string, string>>;
export type Query = Readonly<Record<string, string | number | boolean | null>>;

/** Connects, and lets nothing be sent before the certificate is the right one. Raises AppError unavailable, timeout or denied. */
export function connect({ repository, fingerprint, signal }: Target): Promise<TLSSocket> {
  const place = formatAuthority(repository);
  return new Promise((resolve, reject) => {
    const socket = connectTls({
      host: repository.host,
      port: repository.port,
      rejectUnauthorized: fingerprint === null,
      ALPNProtocols: ['http/1.1'],
      ...(isIP(repository.host) === 0 ? { servername: repository.host } : {}),
    });
    const timer = setTimeout(() => fail(new AppError('timeout', `connecting to ${place}: no answer`)), clientLimits.connectMs);
    const onAbort = (): void => fail(signal.reason as Error);
    const settle = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
    };
    const fail = (error: Error): void => {
      settle();
      socket.destroy();
      reject(error);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) return onAbort();
    socket.once('error', (cause: NodeJS.ErrnoException) => fail(connectError(place, cause)));
    socket.once('secureConnect', () => {
      const found = socket.getPeerCertificate().fingerprint256?.toLowerCase() ?? '';
      if (fingerprint !== null && found !== formatFingerprint(fingerprint)) {
        return fail(
          new AppError(
            'denied',
            `${place} has the certificate ${found}, not ${formatFingerprint(fingerprint)}: nothing was sent to it`,
          ),
        );
      }
      settle();
      socket.removeAllListeners('error');
      // Whoever uses the socket hears of its end by `close`; an error without a listener would end the process.
      socket.on('error', () => {});
      socket.setNoDelay(true);
      resolve(socket);
    });
  });
}

function connectError(place: string, cause: NodeJS.ErrnoException): AppError {
  const isCertificate = /CERT|SELF_SIGNED|ALTNAME|ISSUER/.test(cause.code ?? '');
  if (!isCertificate) return new AppError('unavailable', `connecting to ${place}`, { cause });
  return new AppError('denied', `${place}: its certificate is not trusted here; give its fingerprint with --fingerprint`, {
    cause,
  });
}

/** One ordinary call; returns `data` of the answer. Raises AppError with the server's words. */
export async function callRest(
  target: Target,
  login: Login,
  call: { method: 'GET' | 'POST' | 'PUT' | 'DELETE'; path: string; query?: Query; body?: object },
): Promise<unknown> {
  const { repository, signal } = target;
  const socket = await connect(target);
  const content = call.body === undefined ? '' : JSON.stringify(call.body);
  const what = `${call.method} ${call.path}`;
  const { status, text } = await new Promise<{ status: number; text: string }>((resolve, reject) => {
    const request = httpRequest(
      {
        method: call.method,
        path: `/api2/json/${call.path}${formatQuery(call.query ?? {})}`,
        createConnection: () => socket,
        signal,
        headers: {
          ...login,
          host: formatAuthority(repository),
          connection: 'close',
          ...(content === '' ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(content) }),
        },
      },
      (response) => {
        const pieces: Buffer[] = [];
        let length = 0;
        response.on('data', (piece: Buffer) => {
          length += piece.length;
          if (length > clientLimits.answerBytes) request.destroy(new Error('the answer is too long'));
          else pieces.push(piece);
        });
        response.once('end', () => resolve({ status: response.statusCode ?? 0, text: Buffer.concat(pieces).toString() }));
        response.once('error', reject);
      },
    );
    request.setTimeout(clientLimits.callMs, () => request.destroy(new AppError('timeout', `${what}: no answer`)));
    request.once('error', reject);
    request.end(content);
  })
    .catch((cause: unknown) => {
      if (signal.aborted) throw signal.reason as Error;
      throw new AppError('unavailable', `asking ${formatAuthority(repository)}: ${what}`, { cause });
    })
    .finally(() => socket.destroy());
  if (status !== 200) throw refusal(status, text, what);
  return readData(text, what);
}

/** Proves who asks: a token with every call, a password once for a ticket. Raises AppError unauthenticated. */
export async function logIn(target: Target, secret: string): Promise<Login> {
  const { user } = target.repository;
  if (isToken(target.repository)) return { authorization: `PBSAPIToken ${user}:${encodeURIComponent(secret)}` };
  const answer = await callRest(
    target,
    {},
    { method: 'POST', path: 'access/ticket', body: { username: user, password: secret } },
  );
  const ticket = (answer as Record<string, unknown> | null)?.['ticket'];
  const csrf = (answer as Record<string, unknown> | null)?.['CSRFPreventionToken'];
  if (typeof ticket !== 'string' || typeof csrf !== 'string')
    throw new AppError('unavailable', 'logging in: the answer has no ticket');
  return { cookie: `PBSAuthCookie=${encodeURIComponent(ticket)}`, csrfpreventiontoken: csrf };
}

/** `?a=b`, without what is null. */
export function formatQuery(query: Query): string {
  const given = Object.entries(query).flatMap(([key, value]) =>
    value === null ? [] : [[key, String(value)] as [string, string]],
  );
  return given.length === 0 ? '' : `?${new URLSearchParams(given).toString()}`;
}

/** `data` of the server's envelope. Raises AppError unavailable when there is none. */
export function readData(text: string, what: string): unknown {
  try {
    return (JSON.parse(text) as { data?: unknown }).data ?? null;
  } catch (cause) {
    throw new AppError('unavailable', `${what}: the answer is not JSON`, { cause });
  }
}

const kindOfStatus: Readonly<Record<number, ErrorKind>> = {
  400: 'conflict',
  401: 'unauthenticated',
  403: 'denied',
  404: 'missing',
};

/** What a server refused, in its words. */
export function refusal(status: number, text: string, what: string): AppError {
  const words = text.replaceAll(/\s+/g, ' ').trim().slice(0, 500);
  return new AppError(kindOfStatus[status] ?? 'unavailable', `${what}: the server answers ${status}: ${words}`);
}
