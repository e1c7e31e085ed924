import type { ClusterStep } from '#core/ha/cluster-round/steps.ts';
import { TestCluster } from '#core/ha/cluster-round/test-cluster.ts';
import type { HaResource } from '#core/ha/records.ts';

/** Three nodes and guest 100 on n1, adopted, running, copied to the others. */
export function running(resource: Partial<HaResource> = {}): TestCluster {
  const cluster = new TestCluster(['n1', 'n2', 'n3']);
  cluster.addGuest(100, 'n1', resource);
  cluster.settle();
  if (resource.want !== 'ignored') cluster.tell(100, 'ok');
  cluster.addCopy(100, 'n2', 7);
  cluster.addCopy(100, 'n3', 8);
  cluster.settle();
  return cluster;
}

export function lose(cluster: TestCluster, node: string, silentMs = 15_000): void {
  cluster.silentMs.set(node, silentMs);
}

export const stateOf = (cluster: TestCluster, vmid = 100): string | undefined => cluster.guest(vmid).ha?.state.kind;
export const defers = (steps: ClusterStep[]): string[] => steps.flatMap((step) => (step.kind === 'defer' ? [step.because] : []));
