import { readFileSync } from 'node:fs';
import { createSecureContext } from 'node:tls';
import type { CallOptions as RpcOptions, Transport } from '@connectrpc/connect';
import { AppError, formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { type EtcdConnection, type EtcdTls, type TlsMaterial, openConnection } from './etcd-connection.ts';
import { createOpener, waitFor } from './etcd-opener.ts';
import { type CallTrouble, sortCallError } from './etcd-trouble.ts';

/** Makes one call over `transport`. */
export type MemberCall<T> = (transport: Transport, options: RpcOptions) => Promise<T>;

export type Attempt<T> = { kind: 'answer'; value: T } | CallTrouble;

/** `untilMs`: on the clock of `performance.now()`. */
export type AttemptOptions = { what: string; untilMs: number; signal: AbortSignal };

export interface EtcdMember {
  readonly endpoint: string;
  /** One call, with its own limit for connecting; never throws. */
  attempt<T>(call: MemberCall<T>, options: AttemptOptions): Promise<Attempt<T>>;
  /** A connection of the caller's own, to be closed by the caller. Raises NotSent. */
  connect(signal: AbortSignal): Promise<EtcdConnection>;
  /**
   * A call got no answer in time. When nothing else came over the present connection since the last such complaint, new calls do not use it any
   * more, and it is closed when its last call has ended. One that is being made goes on, and so does one on which the member is only slow: making
   * another would make it slower.
   */
  distrustConnection(): void;
  /** Nobody will ask this member again. */
  close(): void;
}

/** How long a caller waits for a connection to one member, and for its answer before the next one is asked as well. */
export type EtcdPatience = { connectMs: number; hedgeMs: number };

const usualPatience: EtcdPatience = { connectMs: limits.etcdConnectMs, hedgeMs: limits.etcdHedgeMs };

/** All members we know, and the one that answers us at present: calls stay with it until it gives trouble. */
export interface EtcdMembers {
  readonly all: readonly EtcdMember[];
  readonly current: EtcdMember;
  readonly tls: EtcdTls | null;
  readonly patience: EtcdPatience;
  after(member: EtcdMember): EtcdMember;
  /** `member` gave trouble: if it is the current one, go to `to` (default: the next). */
  leave(member: EtcdMember, because: unknown, to?: EtcdMember): void;
  /** These are the members there are now: those not known yet are added at the end, others go. Returns whether anything changed. */
  replace(endpoints: string[]): boolean;
  close(): void;
}

/** etcd ends a call at once instead of waiting when it knows that there is no leader (metadata key of etcd's rpctypes). */
export const leaderRequired = { hasleader: 'true' } as const;

/** Raises AppError missing when a certificate file cannot be read, invalid when one is none or an endpoint is no URL. */
export function createMembers(
  endpoints: string[],
  tls: EtcdTls | null,
  onTrouble: (text: string) => void,
  patience: EtcdPatience = usualPatience,
): EtcdMembers {
  if (endpoints.length === 0)
    throw new AppError('invalid', 'etcd endpoints: none given; name at least one, e.g. https://10.0.0.1:2379');
  const material = tls === null ? null : readTlsMaterial(tls);
  const make = (origin: string) => createMember(origin, tls, material, patience);
  let all = endpoints.map((endpoint) => make(parseEndpoint(endpoint, tls)));
  let current = all[0]!;
  const after = (member: EtcdMember) => all[(all.indexOf(member) + 1) % all.length]!;
  return {
    tls,
    patience,
    after,
    get all() {
      return all;
    },
    get current() {
      return current;
    },
    leave(member, because, to = after(member)) {
      if (member !== current || to === member) return;
      current = to;
      onTrouble(`etcd: left ${member.endpoint} for ${to.endpoint}: ${formatErrorChain(because)}`);
    },
    replace(wanted) {
      const origins = [...new Set(wanted.map((endpoint) => parseEndpoint(endpoint, tls)))];
      const isSame = origins.length === all.length && all.every(({ endpoint }) => origins.includes(endpoint));
      if (origins.length === 0 || isSame) return false;
      const kept = all.filter(({ endpoint }) => origins.includes(endpoint));
      const known = new Set(kept.map(({ endpoint }) => endpoint));
      const gone = all.filter((member) => !kept.includes(member));
      all = [...kept, ...origins.filter((origin) => !known.has(origin)).map(make)];
      if (!all.includes(current)) current = all[0]!;
      for (const member of gone) member.close();
      return true;
    },
    close() {
      for (const member of all) member.close();
    },
  };
}

type SharedConnection = {
  opened: Promise<EtcdConnection>;
  connection: EtcdConnection | null;
  calls: number;
  dropped: boolean;
  /** What had come over it at the last complaint. */
  heard: { bytes: number; atMs: number };
};

function createMember(endpoint: string, tls: EtcdTls | null, material: TlsMaterial | null, patience: EtcdPatience): EtcdMember {
  let shared: SharedConnection | null = null;
  // Shared, or left to the next who asks: no single caller's signal may end it.
  const never = new AbortController().signal;
  const waits = { connectMs: limits.etcdConnectMs, handshakeMs: limits.etcdHandshakeMs };
  const open = () => openConnection(endpoint, material, waits, never);
  const opener = createOpener(open, { patienceMs: patience.connectMs, keepMs: limits.etcdHandshakeMs });

  function openShared(): SharedConnection {
    const opening: SharedConnection = {
      opened: open(),
      connection: null,
      calls: 0,
      dropped: false,
      heard: { bytes: 0, atMs: 0 },
    };
    opening.opened.then(
      (connection) => {
        opening.connection = connection;
        closeWhenUnused(opening);
      },
      () => drop(opening),
    );
    return opening;
  }

  function drop(dropped: SharedConnection): void {
    dropped.dropped = true;
    if (shared === dropped) shared = null;
    closeWhenUnused(dropped);
  }

  return {
    endpoint,
    connect: (signal) => opener.take(signal),
    distrustConnection() {
      if (shared === null || shared.connection === null) return;
      const { connection, heard } = shared;
      const nowMs = performance.now();
      if (connection.gone) drop(shared);
      else if (connection.receivedBytes > heard.bytes) shared.heard = { bytes: connection.receivedBytes, atMs: nowMs };
      // Calls that were made together complain together.
      else if (nowMs - heard.atMs >= limits.etcdConnectMs) drop(shared);
    },
    close() {
      if (shared !== null) drop(shared);
      opener.close();
    },
    async attempt<T>(call: MemberCall<T>, { what, untilMs, signal }: AttemptOptions): Promise<Attempt<T>> {
      if (shared?.connection?.gone) drop(shared);
      shared ??= openShared();
      const using = shared;
      using.calls += 1;
      try {
        const connection = await waitFor(using.opened, Math.min(untilMs, performance.now() + patience.connectMs), signal);
        const timeoutMs = Math.max(1, Math.round(untilMs - performance.now()));
        return { kind: 'answer', value: await call(connection.transport, { timeoutMs, signal, headers: leaderRequired }) };
      } catch (error) {
        return sortCallError(error, what, endpoint, tls);
      } finally {
        using.calls -= 1;
        closeWhenUnused(using);
      }
    },
  };
}

function closeWhenUnused(shared: SharedConnection): void {
  if (shared.dropped && shared.calls === 0) shared.connection?.close();
}

function parseEndpoint(endpoint: string, tls: EtcdTls | null): string {
  const url = URL.canParse(endpoint) ? new URL(endpoint) : null;
  const scheme = tls === null ? 'http:' : 'https:';
  if (url === null || url.protocol !== scheme) {
    throw new AppError('invalid', `etcd endpoint ${JSON.stringify(endpoint)}: not a URL that begins with ${scheme}//`);
  }
  return url.origin;
}

function readTlsMaterial(tls: EtcdTls): TlsMaterial {
  const read = (file: string) => {
    try {
      return readFileSync(file);
    } catch (cause) {
      throw new AppError('missing', `etcd client: certificate file ${file} cannot be read; it is made when the node joins`, {
        cause,
      });
    }
  };
  const material = { ca: read(tls.caFile), cert: read(tls.certFile), key: read(tls.keyFile) };
  try {
    return createSecureContext(material);
  } catch (cause) {
    const files = `${tls.caFile}, ${tls.certFile}, ${tls.keyFile}`;
    throw new AppError('invalid', `etcd client: ${files} are not an authority, a certificate and the key that belongs to it`, {
      cause,
    });
  }
}
