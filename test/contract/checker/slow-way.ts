import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

/** A way to a port of this machine that passes on as much as it is told to. */
export type SlowWay = AsyncDisposable & {
  port: number;
  /** Passed on from the server since the start. */
  bytes: number;
  /** What it passes on from the server, in bytes a second; 0: nothing, and nobody is told. */
  rate: number;
  /** Ends all connections, and takes no new ones until it is opened again. */
  cut(): void;
  open(): void;
};

const stepMs = 10;

export async function startSlowWay(port: number): Promise<SlowWay> {
  const sockets = new Set<Socket>();
  let isOpen = true;
  let allowed = 0;
  const ticker = setInterval(() => {
    allowed = Math.min(allowed + (way.rate * stepMs) / 1_000, Math.max(way.rate / 10, 65_536));
  }, stepMs);

  async function pump(from: Socket, to: Socket): Promise<void> {
    for await (const piece of from) {
      while (allowed < 1 && !to.destroyed) await delay(stepMs);
      if (Number.isFinite(way.rate)) allowed -= (piece as Buffer).length;
      way.bytes += (piece as Buffer).length;
      if (!to.write(piece)) await new Promise<void>((resolve) => void to.once('drain', resolve).once('close', resolve));
    }
  }

  const server = createServer((client) => {
    client.setMaxListeners(0); // whoever waits listens
    if (!isOpen) return void client.destroy();
    const upstream = connect(port, '127.0.0.1');
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        sockets.delete(socket);
        client.destroy();
        upstream.destroy();
      });
    }
    client.pipe(upstream);
    pump(upstream, client)
      .catch(() => {}) // it was cut
      .finally(() => client.end());
  });
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const way: SlowWay = {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    bytes: 0,
    rate: Number.POSITIVE_INFINITY,
    cut() {
      isOpen = false;
      for (const socket of sockets) socket.destroy();
    },
    open() {
      isOpen = true;
    },
    async [Symbol.asyncDispose]() {
      clearInterval(ticker);
      way.cut();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return way;
}
