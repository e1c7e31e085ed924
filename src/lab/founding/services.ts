import { join } from 'node:path';
import { formatEtcdArguments } from '#adapters/etcd/etcd-arguments.ts';
import type { LabNode, ServiceSpec } from '#lab/lab-spec.ts';

export const storePorts = { client: 2379, peer: 2380 } as const;

/** Paths as a node sees them: the same as on servers. */
export const nodeView = {
  config: '/etc/holdfast/node.toml',
  caFile: '/etc/holdfast/pki/ca.pem',
  certFile: '/etc/holdfast/pki/node.pem',
  keyFile: '/etc/holdfast/pki/node.key',
  secrets: '/etc/holdfast/secrets',
  data: '/var/lib/holdfast',
  run: '/run/holdfast',
  watchdog: '/dev/watchdog0',
} as const;

/** The store and the guard go before all else: a late heartbeat is a dead node to the others. */
const urgentNice = -5;

/**
 * The processes of every node, the same units as on a server. `{node}` and `{address}` are filled in at each boot. `programsDir`
 * holds the folders `guard`, `agent` and `relay`.
 */
export function defaultServices(options: { nodes: LabNode[]; clusterId: string; programsDir: string }): ServiceSpec[] {
  const program = (name: string) => [process.execPath, join(options.programsDir, name, 'main.ts'), '--config', nodeView.config];
  return [
    storeService(options.nodes, options.clusterId),
    { name: 'guard', argv: program('guard'), restart: 'never', nice: urgentNice, needsCluster: true },
    { name: 'relay', argv: program('relay'), restart: 'always', nice: 0, needsCluster: true },
    { name: 'agent', argv: program('agent'), restart: 'always', nice: 0, needsCluster: true },
  ];
}

/** One etcd member a node. */
export function storeService(nodes: LabNode[], clusterId: string): ServiceSpec {
  const argv = formatEtcdArguments({
    name: '{node}',
    dataDirectory: join(nodeView.data, 'etcd'),
    address: '{address}',
    clientPort: storePorts.client,
    peerPort: storePorts.peer,
    initialMembers: nodes.map((node) => ({ name: node.name, address: node.address, peerPort: storePorts.peer })),
    clusterToken: clusterId,
    initialState: 'new',
    tls: { caFile: nodeView.caFile, certFile: nodeView.certFile, keyFile: nodeView.keyFile },
  });
  return { name: 'etcd', argv: ['etcd', ...argv], restart: 'always', nice: urgentNice, needsCluster: false };
}

/** Where clients reach the store: `first` before the others. */
export function storeEndpoints(nodes: LabNode[], first?: string): string[] {
  const ordered = [...nodes].sort((a, b) => Number(b.name === first) - Number(a.name === first));
  return ordered.map((node) => `https://${node.address}:${storePorts.client}`);
}
