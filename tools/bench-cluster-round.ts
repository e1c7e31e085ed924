import type { ClusterFacts } from '#core/ha/cluster-round/facts.ts';
import { planClusterRound } from '#core/ha/cluster-round/round.ts';
import { TestCluster } from '#core/ha/cluster-round/test-cluster.ts';
import { keys } from '#core/ha/keys.ts';
import type { NodeInfo } from '#core/ha/records.ts';

/**
 * CPU time of the manager's whole round on the cluster's record: 32 nodes, a growing number of guests with two copies each, records
 * gathered, planned, and turned into commits. Method: process CPU time around one round with nothing written; one run to warm up, then `runs`
 * runs; all figures are printed.
 */
const nodeCount = 32;
const guestCounts = [1_250, 2_500, 5_000, 10_000];
const runs = 7;
/** Goal for one round of the largest cluster. */
const goalMs = 100;

const names = Array.from({ length: nodeCount }, (_, index) => `node${String(index + 1).padStart(2, '0')}`);
const nodeOf = (index: number): string => names[index % nodeCount] ?? 'node01';

function build(guests: number): TestCluster {
  const cluster = new TestCluster(names, nodeOf(0));
  for (const name of names) {
    const info = cluster.read<NodeInfo>(keys.nodeInfo(name));
    cluster.put(keys.nodeInfo(name), { ...info?.value, cores: 128, memoryMb: 2 ** 23 });
  }
  for (let index = 0; index < guests; index += 1) {
    const vmid = 100 + index;
    cluster.addGuest(vmid, nodeOf(index * index), {}, 512 * (1 + ((index * 7) % 13)));
    cluster.addCopy(vmid, nodeOf(index * index + 1), 8);
    cluster.addCopy(vmid, nodeOf(index * index + 2), 7);
  }
  cluster.settle();
  for (let index = 0; index < guests; index += 1) cluster.tell(100 + index, 'ok');
  cluster.settle();
  return cluster;
}

function measureMs(run: () => void): number {
  const before = process.cpuUsage();
  run();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

function measure(what: string, guests: number, round: () => number): number {
  const steps = round();
  const figures = Array.from({ length: runs }, () => measureMs(round));
  const median = figures.toSorted((a, b) => a - b)[Math.floor(runs / 2)] ?? NaN;
  const raw = figures.map((figure) => figure.toFixed(1)).join(' ');
  process.stdout.write(
    `${String(guests).padStart(6)} guests  ${what.padEnd(42)} median ${median.toFixed(1).padStart(6)}   ${raw}   (${steps} steps)\n`,
  );
  return median;
}

function main(): void {
  process.stdout.write(`${nodeCount} nodes, records to commits, process CPU in ms for one round, ${runs} runs each\n`);
  let worst = 0;
  for (const guests of guestCounts) {
    const cluster = build(guests);
    const round = (change: (facts: ClusterFacts) => ClusterFacts) => () =>
      planClusterRound(change(cluster.facts()), cluster.nowMs, cluster.nowMs).steps.length;
    const quiet = measure(
      'a quiet round',
      guests,
      round((facts) => facts),
    );
    const lost = measure(
      'a node of 32 claimed, its guests recovered',
      guests,
      round((facts) => ({
        ...facts,
        nodes: facts.nodes.map((node) =>
          node.name === nodeOf(4) && node.permit?.value.state === 'granted'
            ? {
                ...node,
                permit: {
                  modRevision: node.permit.modRevision,
                  value: {
                    state: 'revoked' as const,
                    epoch: 2,
                    revokedEpoch: 1,
                    proof: { kind: 'released' as const, reason: 'bench' },
                    managerEpoch: 1,
                    revokedAtMs: 0,
                  },
                },
              }
            : node,
        ),
      })),
    );
    worst = Math.max(quiet, lost);
  }
  process.stdout.write(`slowest median of the largest cluster: ${worst.toFixed(1)} ms; goal: under ${goalMs} ms\n`);
  process.exitCode = worst < goalMs ? 0 : 1;
}

main();
