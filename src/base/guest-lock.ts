/** One job at a time for each guest, in the order they were asked for. */
export type GuestLock = { run<T>(vmid: number, job: () => Promise<T>): Promise<T> };

/** Makes the lock of one storage; it holds within this process, the only one that changes copies. */
export function createGuestLock(): GuestLock {
  const tails = new Map<number, Promise<unknown>>();
  return {
    async run(vmid, job) {
      const before = tails.get(vmid) ?? Promise.resolve();
      const mine = before.then(job, job);
      const settled = mine.catch(() => {});
      tails.set(vmid, settled);
      try {
        return await mine;
      } finally {
        if (tails.get(vmid) === settled) tails.delete(vmid);
      }
    },
  };
}
