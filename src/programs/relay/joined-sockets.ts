import type { Socket } from 'node:net';
import { limits } from '#base/limits.ts';
import type { TokenBucket } from './token-bucket.ts';

/**
 * Passes bytes between two sockets until one ends, the slower one setting the pace. `bucket` slows what goes from `local` to `far`.
 * An end is passed on after what was sent before it; an error cuts both. Returns the function that cuts both at once.
 */
export function joinSockets(local: Socket, far: Socket, bucket: TokenBucket | null): () => void {
  const cut = (): void => {
    local.destroy();
    far.destroy();
  };
  pass(local, far, bucket);
  pass(far, local, null);
  for (const [socket, other] of [
    [local, far],
    [far, local],
  ] as const) {
    socket.setNoDelay(true);
    socket.on('error', cut);
    socket.on('close', () => {
      if (other.destroyed) return;
      other.destroySoon();
      setTimeout(() => other.destroy(), limits.relaySilenceMs).unref(); // it may never take what is left
    });
  }
  return cut;
}

function pass(from: Socket, to: Socket, bucket: TokenBucket | null): void {
  let waiting = 0;
  const hold = (): void => {
    waiting += 1;
    from.pause();
  };
  const release = (): void => {
    waiting -= 1;
    if (waiting === 0 && !from.destroyed) from.resume();
  };
  from.on('data', (chunk: Buffer) => {
    const pauseMs = bucket?.take(chunk.length, performance.now()) ?? 0;
    if (pauseMs > 0) {
      hold();
      setTimeout(release, pauseMs);
    }
    if (!to.write(chunk)) {
      hold();
      to.once('drain', release);
    }
  });
  from.on('end', () => to.end());
  from.resume();
}
