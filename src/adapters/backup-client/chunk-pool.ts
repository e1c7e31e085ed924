import type { Worker } from 'node:worker_threads';
import { AppError } from '#base/error.ts';
import type { ChunkAnswer, ChunkOrder, ExpectedChunk, TargetFile } from './chunk-jobs.ts';
import { allLoaded, followLoad } from './thread-loads.ts';
import { raiseTrouble } from './trouble.ts';

/** A chunk in the hands of a worker, which waits to hear whether it is wanted. */
export type HeldChunk = {
  digest: Uint8Array;
  sizeBytes: number;
  /** Its envelope. */
  encode(): Promise<Uint8Array>;
  /** It is not wanted. */
  drop(): Promise<void>;
};

/** Workers that read, hash, compress, encrypt and check chunks. */
export type ChunkPool = AsyncDisposable & {
  width: number;
  /** A piece of the image behind `fd`. */
  read(fd: number, at: number, bytes: number): Promise<HeldChunk>;
  /** What is in `room`; `onFree` gets the memory back. */
  take(room: ArrayBuffer, bytes: number, onFree: (room: ArrayBuffer) => void): Promise<HeldChunk>;
  /** Content of a chunk, checked. The worker takes the memory of `encoded`, unless it is shared. Raises AppError. */
  open(encoded: Uint8Array, expected: ExpectedChunk): Promise<Uint8Array>;
  /** The same, written to its place. */
  openInto(encoded: Uint8Array, expected: ExpectedChunk, target: TargetFile & { at: number }): Promise<void>;
};

type Answered<Kind extends ChunkAnswer['kind']> = ChunkAnswer & { kind: Kind };
type Hand = { worker: Worker; waiting: Map<number, (answer: ChunkAnswer | Error) => void> };

/** Takes the workers into service; each gets work when it has the least. */
export function createChunkPool(workers: readonly Worker[]): ChunkPool {
  let last = 0;
  for (const worker of workers) void followLoad(worker);
  const hands = workers.map((worker): Hand => {
    const waiting: Hand['waiting'] = new Map();
    const failAll = (error: Error): void => {
      for (const settle of waiting.values()) settle(error);
      waiting.clear();
    };
    worker.on('message', (answer: ChunkAnswer) => {
      const settle = waiting.get(answer.number);
      waiting.delete(answer.number);
      settle?.(answer);
    });
    worker.on('error', (cause) => failAll(new AppError('unavailable', 'a worker that handles chunks died', { cause })));
    worker.on('exit', () => failAll(new AppError('unavailable', 'a worker that handles chunks ended')));
    return { worker, waiting };
  });

  function order<Kind extends ChunkAnswer['kind']>(hand: Hand, what: ChunkOrder, moved: ArrayBuffer[]): Promise<Answered<Kind>> {
    return new Promise((resolve, reject) => {
      hand.waiting.set(what.number, (answer) => {
        if (answer instanceof Error) reject(answer);
        else if (answer.kind === 'trouble') reject(raiseTrouble(answer.error));
        else resolve(answer as Answered<Kind>);
      });
      hand.worker.postMessage(what, moved);
    });
  }

  function pick(): Hand {
    return hands.reduce((least, hand) => (hand.waiting.size < least.waiting.size ? hand : least));
  }

  async function hold(
    what: (ChunkOrder & { kind: 'read' }) | (ChunkOrder & { kind: 'take' }),
    moved: ArrayBuffer[],
    onFree: (room: ArrayBuffer) => void,
  ): Promise<HeldChunk> {
    const hand = pick();
    const { number } = what;
    const { digest, sizeBytes } = await order<'digest'>(hand, what, moved);
    const free = (room: ArrayBuffer | null): void => {
      if (room !== null) onFree(room);
    };
    return {
      digest,
      sizeBytes,
      async encode() {
        const { encoded, room } = await order<'encoded'>(hand, { kind: 'encode', number }, []);
        free(room);
        return encoded;
      },
      drop: async () => free((await order<'dropped'>(hand, { kind: 'drop', number }, [])).room),
    };
  }

  function open(
    encoded: Uint8Array,
    expected: ExpectedChunk,
    target: (TargetFile & { at: number }) | null,
  ): Promise<Answered<'opened'>> {
    const { buffer } = encoded;
    const isWhole = buffer instanceof ArrayBuffer && buffer.byteLength === encoded.byteLength;
    const what: ChunkOrder = { kind: 'open', number: (last += 1), encoded, expected, target };
    return order<'opened'>(pick(), what, isWhole ? [buffer] : []);
  }

  return {
    width: workers.length,
    read: (fd, at, bytes) => hold({ kind: 'read', number: (last += 1), fd, at, bytes }, [], () => {}),
    take: (room, bytes, onFree) => hold({ kind: 'take', number: (last += 1), room, bytes }, [room], onFree),
    open: async (encoded, expected) => (await open(encoded, expected, null)).data ?? new Uint8Array(),
    openInto: async (encoded, expected, target) => void (await open(encoded, expected, target)),
    async [Symbol.asyncDispose]() {
      await allLoaded();
      await Promise.all(workers.map((worker) => worker.terminate()));
    },
  };
}
