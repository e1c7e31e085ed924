import type { Socket } from 'node:net';
import { limits } from '#base/limits.ts';

const beat = Buffer.from('.');

/**
 * Watches a heartbeat stream: the dialling side (`sends`) writes a beat at a fixed pace and the other side returns each. Calls `lost` once when the
 * stream ends or is silent too long. Returns the function that stops watching and closes the stream.
 */
export function watchHeartbeat(
  socket: Socket,
  options: { sends: boolean; silenceMs: number; lost: (because: string) => void },
): () => void {
  let lastMs = performance.now();
  let over = false;
  const end = (because: string): void => {
    if (over) return;
    over = true;
    clearInterval(timer);
    socket.destroy();
    options.lost(because);
  };
  const timer = setInterval(() => {
    const silentMs = performance.now() - lastMs;
    if (silentMs > options.silenceMs) end(`no sign of life for ${Math.round(silentMs)} ms`);
    else if (options.sends) socket.write(beat);
  }, limits.relayHeartbeatMs / 2); // looked at twice as often, so that silence is noticed in time
  socket.on('data', () => {
    lastMs = performance.now();
    if (!options.sends) socket.write(beat);
  });
  socket.on('error', (error) => end(error.message));
  socket.on('close', () => end('closed'));
  if (options.sends) socket.write(beat);
  socket.resume();
  return () => {
    over = true;
    clearInterval(timer);
    socket.destroy();
  };
}
