const enter = ['\r', '\n', '\u0004'];
const erase = ['\u0008', '\u007f'];
const interrupt = '\u0003';

/** Asks at the terminal without showing what is typed; null where there is no terminal. Raises the signal's reason at Ctrl-C. */
export async function askSecret(question: string, signal: AbortSignal): Promise<string | null> {
  const { stdin, stderr } = process;
  if (!stdin.isTTY || !stderr.isTTY) return null;
  stderr.write(question);
  stdin.setRawMode(true);
  stdin.setEncoding('utf8');
  stdin.resume();
  try {
    return await readLine(stdin, signal);
  } finally {
    stdin.setRawMode(false);
    stdin.pause();
    stderr.write('\n');
  }
}

function readLine(stdin: NodeJS.ReadStream, signal: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    const settle = (action: () => void): void => {
      stdin.off('data', onData);
      signal.removeEventListener('abort', onAbort);
      action();
    };
    const onAbort = (): void => settle(() => reject(signal.reason as Error));
    const onData = (typed: string): void => {
      for (const letter of typed) {
        if (enter.includes(letter)) return settle(() => resolve(text));
        // In raw mode Ctrl-C is a letter: it goes the way of the signal.
        if (letter === interrupt) process.kill(process.pid, 'SIGINT');
        else if (erase.includes(letter)) text = [...text].slice(0, -1).join('');
        else text += letter;
      }
    };
    signal.addEventListener('abort', onAbort, { once: true });
    stdin.on('data', onData);
  });
}
