import { randomUUID } from 'node:crypto';
import { chown, chmod, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { AppError, type ErrorKind } from '#base/error.ts';
import { readFirstLine } from './first-line.ts';
import { watchHeartbeat } from './heartbeat.ts';
import { joinSockets } from './joined-sockets.ts';
import type { RelayPatience } from './patience.ts';
import { dialPeer, type TlsIdentity } from './tls.ts';
import { createTokenBucket, type TokenBucket } from './token-bucket.ts';

export type TunnelOrder = {
  node: string;
  address: string;
  port: number;
  service: string;
  /** Payload towards the peer, shared by all tunnels of the same `rateGroup`; null: no limit. */
  rateBytesPerSecond: number | null;
  rateGroup: string;
};

export type Tunnel = { path: string; close(): void; readonly closed: Promise<void> };

type Link = { stop: () => void; tunnels: Set<() => void> };

/**
 * The side that opens tunnels. The peer is reached first and only then a local socket appears, because whoever connects to it (QEMU's
 * main loop) must never wait for a dead node.
 */
export function createDialer(options: {
  identity: TlsIdentity;
  directory: string;
  user: { uid: number; gid: number } | null;
  patience: RelayPatience;
  log: (text: string) => void;
}) {
  const linkId = randomUUID();
  const links = new Map<string, Promise<Link>>();
  const buckets = new Map<string, { rate: number; bucket: TokenBucket }>();
  let serial = 0;

  async function callPeer(order: Pick<TunnelOrder, 'node' | 'address' | 'port'>, service: string): Promise<Socket> {
    const socket = await dialPeer(options.identity, order, options.patience.connectMs);
    try {
      socket.write(`${JSON.stringify({ service, link: linkId })}\n`);
      const answer = await readFirstLine(socket, `open ${service} on ${order.node}`, options.patience.connectMs);
      const refusal = answer['error'] as { kind: ErrorKind; message: string } | undefined;
      if (refusal !== undefined) throw new AppError(refusal.kind, `open ${service} on ${order.node}: ${refusal.message}`);
      return socket;
    } catch (error) {
      socket.destroy();
      throw error;
    }
  }

  async function openLink(key: string, order: TunnelOrder): Promise<Link> {
    const socket = await callPeer(order, 'heartbeat');
    const link: Link = { stop: () => {}, tunnels: new Set() };
    link.stop = watchHeartbeat(socket, {
      sends: true,
      silenceMs: options.patience.silenceMs,
      lost: (because) => {
        links.delete(key);
        options.log(`link to ${order.node} lost: ${because}; cutting ${link.tunnels.size} tunnel(s)`);
        for (const cut of link.tunnels) cut();
      },
    });
    return link;
  }

  function requireLink(key: string, order: TunnelOrder): Promise<Link> {
    const known = links.get(key);
    if (known !== undefined) return known;
    const opening = openLink(key, order);
    links.set(key, opening);
    opening.catch(() => links.delete(key));
    return opening;
  }

  function findBucket(order: TunnelOrder): TokenBucket | null {
    if (order.rateBytesPerSecond === null) return null;
    const known = buckets.get(order.rateGroup);
    if (known?.rate === order.rateBytesPerSecond) return known.bucket;
    const bucket = createTokenBucket(order.rateBytesPerSecond, performance.now());
    buckets.set(order.rateGroup, { rate: order.rateBytesPerSecond, bucket });
    return bucket;
  }

  return {
    /** Raises AppError unavailable, timeout or denied; then nothing is left open. */
    async open(order: TunnelOrder): Promise<Tunnel> {
      const link = await requireLink(`${order.node}/${order.address}:${order.port}`, order);
      const far = await callPeer(order, order.service);
      serial += 1;
      const path = join(options.directory, `${serial}.sock`);
      return await listenOnce(path, far, { link, bucket: findBucket(order), user: options.user, patience: options.patience });
    },
    close(): void {
      for (const link of links.values()) void link.then((found) => found.stop()).catch(() => {});
    },
  };
}

/** Serves one local connection on `path` and joins it with `far`. */
async function listenOnce(
  path: string,
  far: Socket,
  about: { link: Link; bucket: TokenBucket | null; user: { uid: number; gid: number } | null; patience: RelayPatience },
): Promise<Tunnel> {
  const closed = Promise.withResolvers<void>();
  let cutJoined = (): void => {};
  const server = createServer({ pauseOnConnect: true });
  const close = (): void => {
    about.link.tunnels.delete(close);
    clearTimeout(timer);
    server.close();
    cutJoined();
    far.destroy();
    void rm(path, { force: true });
    closed.resolve();
  };
  const timer = setTimeout(close, about.patience.connectMs);
  about.link.tunnels.add(close);
  far.on('close', () => setTimeout(close, about.patience.silenceMs)); // what came before the end is still passed on
  far.on('error', close);
  server.once('connection', (local) => {
    clearTimeout(timer);
    server.close();
    void rm(path, { force: true });
    cutJoined = joinSockets(local, far, about.bucket);
    local.on('close', () => closed.resolve());
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => resolve());
  });
  await chmod(path, 0o600);
  if (about.user !== null) await chown(path, about.user.uid, about.user.gid);
  return { path, close, closed: closed.promise };
}
