import { AppError, formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { ReplicaPoint } from '#core/guest/guest-record.ts';
import type { ReplicaRecord, ReplicationJob } from '#core/replica/records.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import type { Peer } from '#programs/replication/control-client.ts';
import type { CycleResult, GuestSender } from '#programs/replication/sender.ts';

/** Where the last state of a guest has arrived. */
export type LastCopies = {
  /** null: nowhere. */
  arrived: {
    point: ReplicaPoint;
    pointAtMs: number;
    configSha256: string;
    lastCycle: ReplicaRecord['lastCycle'];
    copiedTo: string[];
  } | null;
  /** Why it did not arrive somewhere, one line a node. */
  failed: string[];
};

export type LastPointDeps = {
  readPeers: () => Peer[];
  readJob: (vmid: number) => ReplicationJob;
  readConfigSha256: (vmid: number) => string;
  log: (text: string) => void;
};

/**
 * Sends the state of a guest that stands still to one node after the other. All get it under one number: it is one and the same state, so
 * each of these copies is as good as the other.
 */
export async function sendLastPoint(
  guest: RunningGuest,
  sender: GuestSender,
  targets: string[] | null,
  deps: LastPointDeps,
): Promise<LastCopies> {
  const { vmid } = guest;
  const peers = deps.readPeers().filter((peer) => targets?.includes(peer.node) ?? true);
  const unknown = (targets ?? []).filter((node) => !peers.some((peer) => peer.node === node));
  const failed = unknown.map((node) => `${node}: there is no such other node`);
  const configSha256 = deps.readConfigSha256(vmid);
  const job = deps.readJob(vmid);
  const gone = new AbortController();
  void guest.exited.then(({ reason }) => gone.abort(new AppError('unavailable', `guest ${vmid} has ended: ${reason}`)));
  await sender.recover({ resumes: false });
  const results: { node: string; result: CycleResult }[] = [];
  for (const peer of peers) {
    try {
      // One good copy is what is needed; the others must not keep the guest from starting there.
      const signal =
        results.length === 0 ? gone.signal : AbortSignal.any([gone.signal, AbortSignal.timeout(limits.furtherCopyMs)]);
      const result = await sender.send(
        { peer, job, configSha256, reuseFromBootMs: Number.POSITIVE_INFINITY },
        signal,
        results[0]?.result.point,
      );
      const { bytes, tookMs } = result.cycle;
      deps.log(`guest ${vmid} to ${peer.node}: last point, ${result.cycle.kind} of ${bytes} bytes in ${tookMs} ms`);
      results.push({ node: peer.node, result });
    } catch (error) {
      failed.push(`${peer.node}: ${formatErrorChain(error)}`);
      deps.log(`guest ${vmid} to ${peer.node}: its last point did not arrive: ${formatErrorChain(error)}`);
    }
  }
  const first = results[0]?.result;
  if (first === undefined) return { arrived: null, failed };
  const { point, pointAtMs, cycle } = first;
  const copiedTo = results.map(({ node }) => node);
  return { arrived: { point, pointAtMs, configSha256, lastCycle: cycle, copiedTo }, failed };
}
