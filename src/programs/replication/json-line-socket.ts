import type { Socket } from 'node:net';
import { limits } from '#base/limits.ts';

/** Calls `take` for each line of JSON; a line that is none, or too long, ends the connection. */
export function readJsonLines(socket: Socket, take: (line: Record<string, unknown>) => void): void {
  let parts: Buffer[] = [];
  let held = 0;
  socket.on('data', (chunk: Buffer) => {
    let from = 0;
    for (let end = chunk.indexOf(0x0a); end !== -1; end = chunk.indexOf(0x0a, from)) {
      const text = Buffer.concat([...parts, chunk.subarray(from, end)]).toString();
      [parts, held, from] = [[], 0, end + 1];
      const line = parseLine(text);
      if (line === null) return void socket.destroy(new Error('a line that is no JSON object'));
      take(line);
    }
    parts.push(chunk.subarray(from));
    held += chunk.length - from;
    if (held > limits.jsonLineBytes) socket.destroy(new Error('a line that is too long'));
  });
}

function parseLine(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}
