/** Work of which only so much is done at a time, in the order it came. */
export type Turns = {
  /** Returns when it is this one's turn, which ends when what it returns is disposed of. `onWait` is called when it has to wait. Raises why `signal` aborted. */
  take(signal: AbortSignal, onWait: () => void): Promise<Disposable>;
};

export function createTurns(atOnce: number): Turns {
  const waiting: (() => void)[] = [];
  let taken = 0;

  function next(): void {
    if (taken < atOnce) waiting.shift()?.();
  }

  function begin(): Disposable {
    taken += 1;
    let isOver = false;
    return {
      [Symbol.dispose]() {
        if (isOver) return;
        isOver = true;
        taken -= 1;
        next();
      },
    };
  }

  return {
    async take(signal, onWait) {
      signal.throwIfAborted();
      if (taken < atOnce) return begin();
      onWait();
      return await new Promise((resolve, reject) => {
        const go = (): void => {
          signal.removeEventListener('abort', leave);
          resolve(begin());
        };
        const leave = (): void => {
          waiting.splice(waiting.indexOf(go), 1);
          reject(signal.reason as Error);
        };
        waiting.push(go);
        signal.addEventListener('abort', leave, { once: true });
      });
    },
  };
}
