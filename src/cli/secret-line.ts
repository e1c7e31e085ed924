import { createInterface } from 'node:readline';
import { Writable } from 'node:stream';
import { AppError } from '#base/error.ts';

/** One line that is not echoed; from standard input where that is no terminal. Raises AppError invalid when nothing comes. */
export async function readSecret(question: string, signal: AbortSignal): Promise<string> {
  const terminal = process.stdin.isTTY === true;
  if (terminal) process.stderr.write(question);
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  const lines = createInterface({ input: process.stdin, output: nowhere, terminal });
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  lines.once('line', resolve);
  lines.once('close', () => reject(new AppError('invalid', `${question.replace(/:? *$/, '')}: nothing came on standard input`)));
  signal.addEventListener('abort', () => lines.close(), { once: true });
  try {
    return await promise;
  } finally {
    lines.close();
    if (terminal) process.stderr.write('\n');
  }
}
