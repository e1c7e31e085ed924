import type { ReplicationJob } from '#core/replica/records.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';

/** Brings a guest's file systems to rest while `work` runs, for a bounded time; says whether it did. */
export type WithRest = <T>(
  guest: RunningGuest,
  work: () => Promise<T>,
) => Promise<{ result: T; isRested: boolean; because: string }>;

/** Takes a point as the guest's job wants it: with its agent's help, or as a power cut would leave it. A guest that stands still needs none. */
export async function takeAtRest<T>(
  deps: { withRest: WithRest; log: (text: string) => void },
  guest: RunningGuest,
  job: Pick<ReplicationJob, 'freeze'>,
  take: (kind: 'crash' | 'frozen') => Promise<T>,
): Promise<T> {
  if (job.freeze !== true || (await guest.readState()) !== 'running') return await take('crash');
  const { result, isRested, because } = await deps.withRest(guest, () => take('frozen'));
  if (!isRested) deps.log(`guest ${guest.vmid}: a point was taken without its agent: ${because}`);
  return result;
}
