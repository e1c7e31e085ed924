import { fstatSync } from 'node:fs';
import { createInterface } from 'node:readline';

/**
 * Orders to a measuring process of the lab: lines on stdin, when stdin is a pipe from its owner; the end of that pipe (the owner is gone), SIGTERM
 * and SIGINT all mean stop. `onLine` gets every line but empty ones. Returns a promise of the stop, and a function that lets go of stdin.
 */
export function readControlLines(onLine: (line: string) => void): { stopped: Promise<void>; close: () => void } {
  const { promise: stopped, resolve } = Promise.withResolvers<void>();
  process.once('SIGTERM', () => resolve());
  process.once('SIGINT', () => resolve());
  const stdin = fstatSync(0);
  // Started with no input (/dev/null) or from a terminal it must not end at once, nor wait for somebody to type.
  if (!stdin.isFIFO() && !stdin.isSocket()) return { stopped, close: () => {} };
  const lines = createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    const order = line.trim();
    if (order === 'stop') resolve();
    else if (order !== '') onLine(order);
  });
  lines.on('close', () => resolve());
  return { stopped, close: () => lines.close() };
}
