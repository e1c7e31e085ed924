import type { Writer } from '#cli/world.ts';

/** Tells people on stderr what a long command waits for. On a terminal one line that changes, elsewhere a line per change. */
export type Progress = Disposable & { say: (text: string) => void };

export function startProgress(err: Writer): Progress {
  let last = '';
  let ended = false;
  return {
    say(text) {
      // Where lines cannot be taken back, growing figures (they stand in brackets) would fill a log.
      const news = err.isTerminal ? text : text.replace(/ \(.*/, '');
      if (ended || news === last) return;
      last = news;
      err.write(err.isTerminal ? `\r\u001b[K${text.slice(0, err.widthColumns - 1)}` : `${news}\n`);
    },
    [Symbol.dispose]() {
      ended = true;
      if (last !== '' && err.isTerminal) err.write('\r\u001b[K');
    },
  };
}
