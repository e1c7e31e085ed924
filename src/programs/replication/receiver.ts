import { chmod, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { parseDiskName, parseNodeName, parseVmid } from '#base/ids.ts';
import { digestBytes } from '#core/replica/chunks.ts';
import type { ReplicationJob } from '#core/replica/records.ts';
import type { Clock } from '#ports/clock.ts';
import type { ChunkDesk, IncomingPoint, ReplicationDriver } from '#programs/replication/driver.ts';
import { readJsonLines } from '#programs/replication/json-line-socket.ts';
import { digestsPatienceMs, type CallName, type Calls } from '#programs/replication/messages.ts';

export type ReceiverDeps = {
  driver: Pick<ReplicationDriver, 'readState' | 'begin' | 'thin' | 'closeAll' | 'chunks'>;
  /** Raises AppError denied/conflict unless `sender` is the guest's home at `generation` by a linearizable read. */
  authorize: (vmid: number, sender: string, generation: number) => Promise<void>;
  /** Tells the cluster what this node holds of a guest; called after the commit. Never fails: it is tried again later. */
  announce: (vmid: number) => Promise<void>;
  readJob: (vmid: number) => Pick<ReplicationJob, 'keep'>;
  clock: Clock;
  log: (text: string) => void;
};

/**
 * The receive service on a unix socket that only the relay reaches. The first line of each connection is the relay's and names the peer
 * whose certificate it verified; everything a caller may do is bound to that name.
 */
export async function serveReceiver(path: string, deps: ReceiverDeps, signal: AbortSignal): Promise<void> {
  const open = new Set<Socket>();
  const server: Server = createServer((socket) => {
    open.add(socket);
    socket.on('close', () => open.delete(socket));
    serveCaller(socket, deps);
  });
  await rm(path, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => resolve());
  });
  await chmod(path, 0o600);
  if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  server.close();
  for (const socket of open) socket.destroy();
  await deps.driver.closeAll();
}

function serveCaller(socket: Socket, deps: ReceiverDeps): void {
  let caller: Caller | null = null;
  let work: Promise<void> = Promise.resolve();
  readJsonLines(socket, (line) => {
    if (caller === null) {
      caller = createCaller(parseNodeName(line['peer'], 'peer'), deps);
      return;
    }
    const current = caller;
    work = work.then(async () => {
      const answer = await answerCall(current, line);
      if (!socket.destroyed) socket.write(`${JSON.stringify(answer)}\n`);
    });
  });
  socket.on('error', () => {}); // 'close' follows
  socket.on('close', () => {
    caller?.hangUp.abort(new AppError('unavailable', 'the sender hung up'));
    work = work
      .then(() => caller?.end())
      .catch((error: unknown) => deps.log(`after a sender hung up: ${formatErrorChain(error)}`));
  });
}

async function answerCall(caller: Caller, line: Record<string, unknown>): Promise<object> {
  try {
    const name = line['call'];
    if (typeof name !== 'string' || !Object.hasOwn(caller.calls, name)) {
      throw new AppError('unsupported', `there is no call ${String(name)}`);
    }
    const call = caller.calls[name as CallName] as (ask: unknown) => Promise<object>;
    return { answer: await call(line['ask'] ?? {}) };
  } catch (error) {
    return { error: { kind: isAppError(error) ? error.kind : 'unavailable', message: formatErrorChain(error) } };
  }
}

type Caller = ReturnType<typeof createCaller>;

/** What one connection may do, and what it has open. */
function createCaller(peer: string, deps: ReceiverDeps) {
  const hangUp = new AbortController();
  const tables = new Map<string, Promise<Uint8Array>>();
  const served: { close(): Promise<void> }[] = [];
  let incoming: IncomingPoint | null = null;

  function requireIncoming(): IncomingPoint {
    if (incoming === null) throw new AppError('conflict', `${peer} has begun no point`);
    return incoming;
  }

  async function page(key: string, hash: () => Promise<Uint8Array>, firstChunk: number, count: number) {
    const table = tables.get(key) ?? hash();
    tables.set(key, table);
    table.catch(() => {}); // told to whoever asks
    const from = firstChunk * digestBytes;
    const found = await Promise.race([table, delay(digestsPatienceMs, null, { ref: false })]);
    if (found === null) return { digests: null };
    const digests = found.subarray(from, from + count * digestBytes);
    return { digests: Buffer.from(digests.buffer, digests.byteOffset, digests.length).toString('base64') };
  }

  function requireChunks(): ChunkDesk {
    if (deps.driver.chunks === null) throw new AppError('unsupported', 'this node knows what differs without comparing');
    return deps.driver.chunks;
  }

  async function hashTail(vmid: number, name: string, disk: string): Promise<Uint8Array> {
    const tail = await requireChunks().openTail(vmid, name, `${peer}-tail-${disk}`);
    served.push(tail);
    return await tail.hash(disk, hangUp.signal);
  }

  const calls: { [N in CallName]: (ask: Calls[N]['ask']) => Promise<Calls[N]['answer']> } = {
    state: ({ vmid }) => deps.driver.readState(parseVmid(vmid)),
    async begin({ vmid, point, disks, streams }) {
      await incoming?.abort();
      incoming = null;
      await deps.authorize(parseVmid(vmid), peer, point.generation);
      for (const disk of disks) parseDiskName(disk.name);
      incoming = await deps.driver.begin({ vmid, peer, point, disks, ...(streams === undefined ? {} : { streams }) });
      return {};
    },
    received: async ({ disk }) => ({ done: await requireIncoming().received(parseDiskName(disk)) }),
    async hashes({ disk, firstChunk, count }) {
      const current = requireIncoming();
      parseDiskName(disk);
      return await page(disk, () => requireChunks().hashIncoming(current, disk, hangUp.signal), firstChunk, count);
    },
    async seal({ pointAtMs, configSha256, lastCycle }) {
      const current = requireIncoming();
      incoming = null;
      const { vmid, point } = current;
      try {
        await deps.authorize(vmid, peer, point.generation); // the guest may have moved while the bytes travelled
      } catch (error) {
        await current.abort();
        throw error;
      }
      const appliedAtMs = deps.clock.wallMs();
      await current.seal({ source: peer, pointAtMs, appliedAtMs, configSha256, lastCycle });
      await deps.announce(vmid);
      thinQuietly(deps, vmid);
      return { point };
    },
    async abort() {
      await incoming?.abort();
      incoming = null;
      return {};
    },
    hashTail: ({ vmid, name, disk, firstChunk, count }) =>
      page(`tail ${name} ${disk}`, () => hashTail(parseVmid(vmid), name, parseDiskName(disk)), firstChunk, count),
    async measured({ vmid, generation, name, ...measured }) {
      await deps.authorize(parseVmid(vmid), peer, generation);
      await requireChunks().noteTailSize(vmid, name, measured);
      await deps.announce(vmid);
      return {};
    },
  };
  return {
    calls,
    hangUp,
    async end(): Promise<void> {
      await incoming?.abort();
      incoming = null;
      for (const image of served) await image.close();
    },
  };
}

function thinQuietly(deps: ReceiverDeps, vmid: number): void {
  deps.driver.thin(vmid, deps.readJob(vmid).keep).catch((error: unknown) => {
    deps.log(`guest ${vmid}: dropping old points failed: ${formatErrorChain(error)}`);
  });
}
