import { connect, type Socket } from 'node:net';
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

/** `patient`: no guest is at either end of the tunnel, so nobody is hurt when it takes its time. */
type TunnelOptions = { patient?: boolean };

/**
 * A way to a service of another node: whoever connects to `path` (once) talks to it. `close` returns when the relay has cut it, or at once when the
 * relay is gone; a relay that hangs is killed after `tunnelCutMs` (its supervisor starts it again): QEMU must find its connection dead before it is asked to let go of it.
 */
export type Tunnel = { path: string; close(): Promise<void> };

/** Orders a tunnel from this node's relay. Raises AppError unavailable (no relay here, or no way to the peer), timeout or denied. */
export function openTunnel(run: string, request: TunnelRequest, options: TunnelOptions = {}): Promise<Tunnel> {
  const what = `open a tunnel for ${request.service} to ${request.node}`;
  return new Promise((resolve, reject) => {
    const socket = connect(runPaths.relayControl(run));
    const fail = (error: AppError): void => {
      clearTimeout(timer);
      socket.destroy();
      reject(error);
    };
    // The relay itself needs up to three waits: its link, the peer's answer, the peer's local service.
    const stepMs = options.patient === true ? limits.streamConnectMs : limits.relayConnectMs;
    const timer = setTimeout(() => fail(new AppError('timeout', `${what}: the relay did not answer`)), 3 * stepMs);
    socket.on('error', (cause) => fail(new AppError('unavailable', `${what}: this node's relay does not answer`, { cause })));
    socket.on('close', () => fail(new AppError('unavailable', `${what}: this node's relay hung up`)));
    readJsonLines(socket, (line) => {
      const answer = line as { path?: string; pid?: number; error?: { kind: ErrorKind; message: string } };
      if (answer.error !== undefined) return fail(new AppError(answer.error.kind, answer.error.message));
      if (answer.path === undefined || answer.pid === undefined)
        return fail(new AppError('unsupported', `${what}: the relay's answer makes no sense`));
      clearTimeout(timer);
      const { path, pid } = answer;
      return resolve({
        path,
        close: () => closeAndWait(socket, pid, options.patient === true ? limits.streamCutMs : limits.tunnelCutMs),
      });
    });
    socket.write(`${JSON.stringify(request)}\n`);
  });
}

/** Counts short waits instead of one long one: when this process itself stood still, the relay's answer is read before the next. */
const looks = 10;

function closeAndWait(socket: Socket, relayPid: number, deadlineMs: number): Promise<void> {
  return new Promise((resolve) => {
    if (socket.destroyed) return resolve();
    let left = looks;
    const timer = setInterval(() => {
      left -= 1;
      // The connection is still open, so this process still is the relay; its death is the only thing that closes QEMU's socket.
      if (left === 0) killRelay(relayPid);
    }, deadlineMs / looks);
    socket.once('close', () => {
      clearInterval(timer);
      resolve();
    });
    socket.end();
  });
}

function killRelay(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // it has gone by itself
  }
}
