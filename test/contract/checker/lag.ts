/** Measures how long this machine kept a ready process waiting: on a busy one that is not the fault of what is tested. */
export function watchLag(): { stop(): number } {
  let worstMs = 0;
  let lastMs = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    worstMs = Math.max(worstMs, now - lastMs - 20);
    lastMs = now;
  }, 20);
  timer.unref();
  return {
    stop() {
      clearInterval(timer);
      return worstMs;
    },
  };
}
