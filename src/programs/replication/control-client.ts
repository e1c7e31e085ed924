import { connect } from 'node:net';
import { AppError, type ErrorKind } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { countChunks, digestBytes } from '#core/replica/chunks.ts';
import { openTunnel, type Tunnel } from '#programs/replication/relay-client.ts';
import { readJsonLines } from '#programs/replication/json-line-socket.ts';
import { digestsPerCall, type CallName, type Calls } from '#programs/replication/messages.ts';

/** The control stream as the guest's home uses it. */
export type ControlClient = {
  /** Raises what the target refused with, or AppError unavailable/timeout. `deadlineMs`: replicaCallMs unless told. */
  call<N extends CallName>(name: N, ask: Calls[N]['ask'], options?: { deadlineMs?: number }): Promise<Calls[N]['answer']>;
  [Symbol.dispose](): void;
};

/** Another node, and where its relay listens. */
export type Peer = { node: string; address: string; relayPort: number };

/** A control stream to the receive service of `peer`. Raises AppError as `openTunnel` does. */
export async function callTarget(run: string, peer: Peer, options: { patient?: boolean } = {}): Promise<ControlClient> {
  const request = {
    node: peer.node,
    address: peer.address,
    port: peer.relayPort,
    service: 'replica',
    rateBytesPerSecond: null,
    rateGroup: 'control',
  };
  const tunnel = await openTunnel(run, request, options);
  return connectControl(tunnel, peer.node);
}

function connectControl(tunnel: Tunnel, target: string): ControlClient {
  const socket = connect(tunnel.path);
  const waiting: { settle: (line: Record<string, unknown>) => void; fail: (error: Error) => void }[] = [];
  let ended: AppError | null = null;
  const end = (cause?: Error): void => {
    ended ??= new AppError('unavailable', `the control stream to ${target} ended`, { cause });
    for (const entry of waiting.splice(0)) entry.fail(ended);
  };
  socket.on('error', end);
  socket.on('close', () => end());
  readJsonLines(socket, (line) => waiting.shift()?.settle(line));

  async function call(name: string, ask: object, deadlineMs: number): Promise<unknown> {
    if (ended !== null) throw ended;
    const answered = Promise.withResolvers<Record<string, unknown>>();
    waiting.push({ settle: answered.resolve, fail: answered.reject });
    const late = new AppError('timeout', `${name} on ${target}: no answer within ${deadlineMs} ms`);
    const timer = setTimeout(() => socket.destroy(late), deadlineMs); // answers come in order: after one is late none can be matched
    socket.write(`${JSON.stringify({ call: name, ask })}\n`);
    try {
      const line = await answered.promise;
      const refusal = line['error'] as { kind: ErrorKind; message: string } | undefined;
      if (refusal !== undefined) throw new AppError(refusal.kind, `${name} on ${target}: ${refusal.message}`);
      return line['answer'];
    } finally {
      clearTimeout(timer);
    }
  }

  return {
    call: async (name, ask, options) =>
      (await call(name, ask, options?.deadlineMs ?? limits.replicaCallMs)) as Calls[typeof name]['answer'],
    [Symbol.dispose]() {
      socket.destroy();
      void tunnel.close();
    },
  };
}

/**
 * Asks for a whole table of digests page by page, again and again while the far side is still reading its disk. `ask` makes one call.
 */
export async function fetchDigests(
  sizeBytes: number,
  ask: (firstChunk: number, count: number) => Promise<{ digests: string | null }>,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const chunks = countChunks(sizeBytes);
  const table = new Uint8Array(chunks * digestBytes);
  for (let first = 0; first < chunks;) {
    signal.throwIfAborted();
    const count = Math.min(digestsPerCall, chunks - first);
    const { digests } = await ask(first, count);
    if (digests === null) continue;
    table.set(Buffer.from(digests, 'base64').subarray(0, count * digestBytes), first * digestBytes);
    first += count;
  }
  return table;
}
