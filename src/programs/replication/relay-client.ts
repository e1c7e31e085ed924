import { connect } from 'node:net';
import { AppError, type ErrorKind } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { readJsonLines } from './json-line-socket.ts';
import { runPaths } from './paths.ts';

export type TunnelRequest = {
  node: string;
  address: string;
  port: number;
  service: string;
  rateBytesPerSecond: number | null;
  rateGroup: string;
};

/** A way to a service of another node: whoever connects to `path` (once) talks to it. */
export type Tunnel = { path: string; close(): void };

/** Orders a tunnel from this node's relay. Raises AppError unavailable (no relay here, or no way to the peer), timeout or denied. */
export function openTunnel(run: string, request: TunnelRequest): Promise<Tunnel> {
  const what = `open a tunnel for ${request.service} to ${request.node}`;
  return new Promise((resolve, reject) => {
    const socket = connect(runPaths.relayControl(run));
    const fail = (error: AppError): void => {
      clearTimeout(timer);
      socket.destroy();
      reject(error);
    };
    // The relay itself needs up to three waits: its link, the peer's answer, the peer's local service.
    const timer = setTimeout(() => fail(new AppError('timeout', `${what}: the relay did not answer`)), 3 * limits.relayConnectMs);
    socket.on('error', (cause) => fail(new AppError('unavailable', `${what}: this node's relay does not answer`, { cause })));
    socket.on('close', () => fail(new AppError('unavailable', `${what}: this node's relay hung up`)));
    readJsonLines(socket, (line) => {
      const answer = line as { path?: string; error?: { kind: ErrorKind; message: string } };
      if (answer.error !== undefined) return fail(new AppError(answer.error.kind, answer.error.message));
      if (answer.path === undefined) return fail(new AppError('unsupported', `${what}: the relay's answer makes no sense`));
      clearTimeout(timer);
      return resolve({ path: answer.path, close: () => socket.destroy() });
    });
    socket.write(`${JSON.stringify(request)}\n`);
  });
}
