import { createServer, type Server, type Socket } from 'node:net';
import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { parseNodeName } from '#base/ids.ts';
import { limits } from '#base/limits.ts';
import type { Tunnel, TunnelOrder } from './dialer.ts';
import { readFirstLine } from './first-line.ts';

/**
 * The local socket on which the agent orders tunnels: one connection, one line, one tunnel. The tunnel lives as long as that connection,
 * so an agent that ends, however it ends, leaves none behind.
 */
export function createControl(options: { open: (order: TunnelOrder) => Promise<Tunnel>; log: (text: string) => void }): Server {
  async function serve(socket: Socket): Promise<void> {
    const order = parseOrder(await readFirstLine(socket, 'an order for a tunnel', limits.relayConnectMs));
    const tunnel = await options.open(order);
    // 'end' comes first when the agent waits for the cut: it sees our end only after it.
    socket.on('end', () => tunnel.close());
    socket.on('close', () => tunnel.close());
    if (socket.destroyed) return tunnel.close();
    socket.write(`${JSON.stringify({ path: tunnel.path, pid: process.pid })}\n`);
    socket.resume();
    await tunnel.closed;
    socket.end();
  }
  return createServer((socket) => {
    socket.on('error', () => {}); // 'close' follows
    serve(socket).catch((error: unknown) => {
      const kind = isAppError(error) ? error.kind : 'unavailable';
      socket.end(`${JSON.stringify({ error: { kind, message: formatErrorChain(error) } })}\n`);
    });
  });
}

function parseOrder(line: Record<string, unknown>): TunnelOrder {
  const { node, address, port, service, rateBytesPerSecond, rateGroup } = line;
  if (typeof address !== 'string' || typeof port !== 'number' || typeof service !== 'string' || typeof rateGroup !== 'string') {
    throw new AppError('invalid', 'an order for a tunnel needs node, address, port, service and rateGroup');
  }
  const rate = typeof rateBytesPerSecond === 'number' && rateBytesPerSecond > 0 ? rateBytesPerSecond : null;
  return { node: parseNodeName(node), address, port, service, rateBytesPerSecond: rate, rateGroup };
}
