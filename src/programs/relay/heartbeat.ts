import type { Socket } from 'node:net';
import { limits } from '#base/limits.ts';

const beat = Buffer.from('.');

/**
 * Watches a heartbeat stream: the dialling side (`sends`) writes a beat at a fixed pace and the other side returns each. Calls `lost` once when the
 * stream ends or is silent too long. Returns the function that stops watching and closes the stream. Looks are counted, not time: when this
 * process itself stood still, what came meanwhile is read before the next look.
 */
export function watchHeartbeat(
  socket: Socket,
  options: { sends: boolean; silenceMs: number; lost: (because: string) => void },
): () => void {
  // Looked at twice as often as beats are due, so that silence is noticed in time.
  const lookMs = limits.relayHeartbeatMs / 2;
  let looksInSilence = 0;
  let over = false;
  const end = (because: string): void => {
    if (over) return;
    over = true;
    clearInterval(timer);
    socket.destroy();
    options.lost(because);
  };
  const timer = setInterval(() => {
    looksInSilence += 1;
    const silentMs = looksInSilence * lookMs;
    if (silentMs > options.silenceMs) end(`no sign of life for ${silentMs} ms`);
    else if (options.sends) socket.write(beat);
  }, lookMs);
  socket.on('data', () => {
    looksInSilence = 0;
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
