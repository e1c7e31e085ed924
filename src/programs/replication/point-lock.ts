import { AppError } from '#base/error.ts';

/**
 * Who may put filters over a guest's disks or take them away: one at a time for each guest, for filters leave in the opposite order of their
 * coming.
 */
export type PointLock = {
  /** Runs `work` when it is its turn. Its signal aborts when `urgent` of somebody who waits does. */
  hold<T>(vmid: number, work: (hurry: AbortSignal) => Promise<T>, options?: { urgent: AbortSignal }): Promise<T>;
};

export function createPointLock(): PointLock {
  const queues = new Map<number, Promise<void>>();
  const holders = new Map<number, AbortController>();
  return {
    async hold(vmid, work, options) {
      const before = queues.get(vmid) ?? Promise.resolve();
      const turn = Promise.withResolvers<void>();
      queues.set(
        vmid,
        before.then(() => turn.promise),
      );
      const urgent = options?.urgent;
      const hurry = (): void =>
        holders.get(vmid)?.abort(new AppError('busy', 'a point of a backup must be taken away first; tried again soon'));
      if (urgent?.aborted === true) hurry();
      else urgent?.addEventListener('abort', hurry, { once: true });
      await before;
      urgent?.removeEventListener('abort', hurry);
      const holder = new AbortController();
      holders.set(vmid, holder);
      try {
        return await work(holder.signal);
      } finally {
        holders.delete(vmid);
        turn.resolve();
      }
    },
  };
}
