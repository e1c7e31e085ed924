import { existsSync } from 'node:fs';
import { AppError } from '#base/error.ts';
import { createEtcdStore } from '#adapters/etcd/etcd-store.ts';
import { loadPart } from '#cli/lab-tools.ts';
import type { Reach, ReachOptions } from '#cli/world.ts';
import { readNodeConfig } from '#programs/node-config.ts';
import { storeOptions } from '#programs/store-endpoints.ts';

/** Where a server keeps its configuration unless told otherwise. */
const defaultConfigFile = '/etc/holdfast/node.toml';

/**
 * Finds the way to a cluster: what the options say; without them this server's own cluster if it has a configuration, else the
 * lab that is up on this machine. Raises AppError invalid/missing when there is none or its description cannot be used.
 */
export async function reachCluster(options: ReachOptions, argv: string[]): Promise<Reach> {
  if (options.config !== undefined && options.lab !== undefined) {
    throw new AppError('invalid', 'lab: --config and --lab name two different clusters; give one of them');
  }
  if (options.config !== undefined) return reachServer(options.config);
  if (options.lab === undefined && existsSync(defaultConfigFile)) return reachServer(defaultConfigFile);
  const { reachLab } = await loadPart(
    () => import('#cli/reach-lab.ts'),
    `reach a cluster: this machine has no ${defaultConfigFile}; found a cluster with \`holdfast init\` or join one with \`holdfast join\``,
  );
  return reachLab(options.lab, argv);
}

/**
 * A command begins without a connection, and on a busy server three handshakes at once take three times as long as one. Two members fit into a call
 * (limits.cliStoreCallMs).
 */
const patience = { connectMs: 1_400, hedgeMs: 1_400 };

function reachServer(file: string): Reach {
  const config = readNodeConfig(file);
  return {
    kind: 'here',
    place: { kind: 'server', node: config.node.name, dataDirectory: config.node.data },
    openStore: () => createEtcdStore({ ...storeOptions(config, { keep: false }), patience }),
  };
}
