import { constants, fstatSync, openSync, writeSync } from 'node:fs';
import { pino, type Logger } from 'pino';
import { formatErrorChain } from '#base/error.ts';

export type Log = Logger;

/**
 * The log of a program: one JSON line an event on standard output, written at once. Errors under `err` become their chain of
 * causes. A reader that does not keep up costs lines (`linesLost` says how many), never time: the guard pets on this thread.
 */
export function createLog(program: string, node: string): Log {
  return pino(
    {
      base: { program, node },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { err: (error: unknown) => formatErrorChain(error) },
    },
    createLossyOutput(),
  );
}

function createLossyOutput(): { write(line: string): void } {
  const fd = openOutput();
  let lost = 0;
  let cut = false;
  return {
    write(line) {
      const text = `${cut ? '\n' : ''}${line}`;
      try {
        const written = writeSync(fd, text);
        cut = written < Buffer.byteLength(text);
        if (lost > 0 && !cut) {
          const lines = lost;
          lost = 0;
          writeSync(fd, `${JSON.stringify({ level: 'warn', event: 'log.lines-lost', linesLost: lines })}\n`);
        }
      } catch {
        lost += 1;
      }
    },
  };
}

/** Standard output opened anew without blocking, where it is a pipe; our own description, so nobody else's writes change. */
function openOutput(): number {
  try {
    if (!fstatSync(1).isFIFO()) return 1;
    return openSync('/proc/self/fd/1', constants.O_WRONLY | constants.O_NONBLOCK);
  } catch {
    return 1;
  }
}
