import { type ClusterSnapshot, sortSnapshot } from '#core/ha/cluster-snapshot.ts';
import { deriveView } from '#core/ha/cluster-view.ts';
import type { Cluster } from '#sim/cluster.ts';
import { isExecutingOn } from '#sim/liveness.ts';

/** The record as the command line reads it. */
export function takeSnapshot(cluster: Cluster): ClusterSnapshot {
  const entries = [...cluster.store.entries.values()];
  return sortSnapshot(entries.map(({ key, text, modRevision }) => ({ key, value: text, modRevision })));
}

/** S16: what `holdfast status` shows that is not so, from a snapshot taken a moment ago and one taken now; null: all is as it says. */
export function findUntrue(cluster: Cluster, earlier: ClusterSnapshot): string | null {
  const nowMs = cluster.hosts[0]?.wallMs() ?? 0;
  const view = deriveView(earlier, takeSnapshot(cluster), { members: [], deferrals: new Map(), nowMs });
  for (const { vmid, home, state } of view.guests) {
    const runs = cluster.hosts.find((host) => isExecutingOn(host, vmid))?.name ?? null;
    if (state === 'running' && runs !== home) return `S16 status shows guest ${vmid} running on ${home}, and it runs on ${runs}`;
    if (state !== 'running' && state !== 'failed' && runs !== null)
      return `S16 status shows guest ${vmid} as ${state}, and it runs on ${runs}`;
  }
  return null;
}
