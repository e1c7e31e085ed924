import { connect, type Socket } from 'node:net';
import { createServer, type TLSSocket } from 'node:tls';
import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { runPaths } from '#programs/replication/paths.ts';
import { readFirstLine } from './first-line.ts';
import { watchHeartbeat } from './heartbeat.ts';
import { joinSockets } from './joined-sockets.ts';
import type { RelayPatience } from './patience.ts';
import { parseService, type Service } from './service.ts';
import { readPeerName, type TlsIdentity } from './tls.ts';

/** One relay process of a peer, as long as its heartbeat lives; with it go its tunnels. */
type Link = { cuts: Set<() => void> };

/**
 * The side that peers connect to. A connection's first line names a service and the link it belongs to; a tunnel without a living
 * heartbeat of the same link is refused, so a peer that hangs never leaves anything open here.
 */
export function createAcceptor(options: {
  identity: TlsIdentity;
  run: string;
  patience: RelayPatience;
  log: (text: string) => void;
}) {
  const links = new Map<string, Link>();
  const open = new Set<Socket>();

  async function accept(socket: TLSSocket): Promise<void> {
    const peer = readPeerName(socket.getPeerCertificate());
    const asked = await readFirstLine(socket, `a connection from ${peer}`, options.patience.connectMs);
    const service = parseService(String(asked['service']));
    const link = `${peer}/${String(asked['link'])}`;
    if (service.kind === 'heartbeat') return keepLink(socket, link);
    const found = links.get(link);
    if (found === undefined) throw new AppError('denied', `${peer} asked for ${String(asked['service'])} without a heartbeat`);
    const local = await connectLocal(localPath(options.run, service, peer), `${String(asked['service'])} for ${peer}`);
    if (service.kind === 'replica') local.write(`${JSON.stringify({ peer })}\n`);
    socket.write('{"ok":true}\n');
    const cut = joinSockets(local, socket, null);
    found.cuts.add(cut);
    socket.on('close', () => found.cuts.delete(cut));
    if (links.get(link) !== found) cut(); // the heartbeat was lost meanwhile
  }

  function keepLink(socket: TLSSocket, link: string): void {
    const mine: Link = { cuts: new Set() };
    links.set(link, mine);
    socket.write('{"ok":true}\n');
    watchHeartbeat(socket, {
      sends: false,
      silenceMs: options.patience.silenceMs,
      lost: (because) => {
        if (links.get(link) === mine) links.delete(link);
        if (mine.cuts.size > 0) options.log(`link ${link} lost: ${because}; cutting ${mine.cuts.size} tunnel(s)`);
        for (const cut of mine.cuts) cut();
      },
    });
  }

  const server = createServer({
    ...options.identity,
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: 'TLSv1.3',
    handshakeTimeout: options.patience.connectMs,
  });
  server.on('secureConnection', (socket) => {
    open.add(socket);
    socket.on('close', () => open.delete(socket));
    socket.on('error', () => {}); // joinSockets and watchHeartbeat act on it; before them the first line's reader does
    accept(socket).catch((error: unknown) => {
      options.log(`refused: ${formatErrorChain(error)}`);
      const kind = isAppError(error) ? error.kind : 'unavailable';
      socket.end(`${JSON.stringify({ error: { kind, message: formatErrorChain(error) } })}\n`);
    });
  });
  server.on('tlsClientError', (error) => options.log(`refused a peer: ${error.message}`));
  return {
    listen: (address: string, port: number) =>
      new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(port, address, () => resolve());
      }),
    close: () => {
      server.close();
      for (const socket of open) socket.destroy();
    },
  };
}

function localPath(run: string, service: Exclude<Service, { kind: 'heartbeat' }>, peer: string): string {
  switch (service.kind) {
    case 'replica':
      return runPaths.replicaService(run);
    case 'nbd':
      return runPaths.incomingNbd(run, service.vmid, peer);
    case 'stream':
      return runPaths.incomingStream(run, service.vmid, peer, service.disk);
  }
}

function connectLocal(path: string, what: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.removeAllListeners('error');
      resolve(socket);
    });
    socket.once('error', (cause) => reject(new AppError('unavailable', `${what}: nothing serves it on this node`, { cause })));
  });
}
