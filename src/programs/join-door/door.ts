import { readFileSync } from 'node:fs';
import { createServer, type Server, type TLSSocket } from 'node:tls';
import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { JoinCodeRecord } from '#core/cluster/admission.ts';
import { clusterPorts } from '#core/cluster/ports.ts';
import { readFirstLine } from '#programs/relay/first-line.ts';
import type { answerQuestion, DoorParts } from './answer.ts';
import type { DoorAnswer } from './messages.ts';

type OpenDoor = { close(): void };

/** The codes that this node answers for. */
type Codes = readonly { key: string; value: JoinCodeRecord; modRevision: bigint }[];

/**
 * Keeps the door open while a code of this node is good, closed otherwise; forgets codes that are over. Looks whenever `bell` rings.
 * Returns when `signal` aborts.
 */
export async function runJoinDoor(
  parts: DoorParts & { listCodes: () => Codes; nextBell: () => Promise<void>; onTrouble: (text: string) => void },
  signal: AbortSignal,
): Promise<void> {
  let door: OpenDoor | null = null;
  while (!signal.aborted) {
    const own = parts.listCodes().filter(({ value }) => value.madeBy === parts.config.node.name);
    const good = own.filter(({ value }) => parts.nowMs() < value.expiresAtMs);
    try {
      if (good.length > 0) door ??= await openDoor(parts);
      for (const { key, modRevision, value } of own) {
        if (parts.nowMs() < value.expiresAtMs) continue;
        await parts.store.commit([{ key, modRevision }], [{ key, value: null }]);
      }
    } catch (error) {
      if (!isAppError(error)) throw error;
      parts.onTrouble(formatErrorChain(error));
    }
    if (good.length === 0) {
      door?.close();
      door = null;
    }
    await parts.nextBell();
  }
  door?.close();
}

/** Listens on the node's own address. Raises AppError unavailable when that is not possible, missing when a certificate is not readable. */
async function openDoor(parts: DoorParts): Promise<OpenDoor> {
  const { address } = parts.config.node;
  const { tls } = parts.config.etcd;
  if (tls === null) throw new AppError('unsupported', 'open the door for joining nodes: this node has no certificates');
  // The authority's library is as large as the rest of an agent, and few agents ever open a door.
  const answers = await import('./answer.ts');
  const server = createServer({
    // The authority goes along: whoever calls knows its fingerprint and nothing else of us.
    cert: [readFileSync(tls.certFile, 'utf8'), readFileSync(tls.caFile, 'utf8')].join('\n'),
    key: readFileSync(tls.keyFile),
    minVersion: 'TLSv1.3',
    handshakeTimeout: limits.joinCallMs,
  });
  server.maxConnections = limits.joinCallsAtOnce;
  const mayAnswer = createRateLimit(limits.joinCallsAMinute, parts.nowMs);
  server.on('connection', (socket) => {
    socket.setTimeout(limits.joinCallMs, () => socket.destroy());
    if (!mayAnswer()) socket.destroy();
  });
  server.on('secureConnection', (socket) => void serve(parts, answers.answerQuestion, socket));
  server.on('tlsClientError', (_error, socket) => socket.destroy());
  await listen(server, address);
  return { close: () => void server.close() };
}

function listen(server: Server, address: string): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const port = clusterPorts.joinDoor;
  server.once('error', (cause) => {
    reject(new AppError('unavailable', `open the door for joining nodes at ${address}:${port}`, { cause }));
  });
  server.listen({ host: address, port }, resolve);
  return promise.then(() => void server.on('error', () => {}));
}

async function serve(parts: DoorParts, answerOne: typeof answerQuestion, socket: TLSSocket): Promise<void> {
  socket.on('error', () => {}); // whoever hung up gets no answer
  let answer: DoorAnswer;
  try {
    answer = await answerOne(parts, await readFirstLine(socket, 'a machine at the door', limits.joinCallMs));
  } catch (error) {
    if (!isAppError(error)) {
      socket.destroy();
      throw error;
    }
    answer = { ok: false, kind: error.kind, message: formatErrorChain(error) };
  }
  socket.end(JSON.stringify(answer));
}

/** So many a minute; the clock may step, then a minute begins anew. */
function createRateLimit(perMinute: number, nowMs: () => number): () => boolean {
  let beganMs = nowMs();
  let count = 0;
  return () => {
    if (Math.abs(nowMs() - beganMs) >= 60_000) {
      beganMs = nowMs();
      count = 0;
    }
    count += 1;
    return count <= perMinute;
  };
}
