import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { EtcdStoreOptions } from '#adapters/etcd/etcd-store.ts';
import { limits } from '#base/limits.ts';
import type { NodeConfig } from '#programs/node-config.ts';

/**
 * Where the store is reached. node.toml names the members there were when the node was set up; those there are now are learned from
 * the store while a program runs, and kept in the data folder for the next start. Written by the agent only.
 */
const fileName = 'store-members.json';

/** The node's own member first, then the others that are known. */
export function readStoreEndpoints(config: Pick<NodeConfig, 'node' | 'etcd'>): string[] {
  const own = config.etcd.endpoints.slice(0, 1);
  const scheme = new URL(config.etcd.endpoints[0]!).protocol;
  const learned = readLearned(config.node.data).filter((endpoint) => endpoint.startsWith(`${scheme}//`));
  // Members that left are in the settings still; those that are known to be there come first.
  return [
    ...new Set([
      ...own.filter((endpoint) => learned.length === 0 || learned.includes(endpoint)),
      ...learned,
      ...config.etcd.endpoints,
    ]),
  ];
}

/** Options of the node's store that follow its members; `keep`: and write down who they are (the agent). */
export function storeOptions(config: NodeConfig, { keep }: { keep: boolean }): EtcdStoreOptions {
  return {
    endpoints: readStoreEndpoints(config),
    tls: config.etcd.tls,
    followMembers: {
      everyMs: limits.storeMembersLookMs,
      ...(keep && { onMembers: (endpoints: string[]) => writeLearned(config.node.data, endpoints) }),
    },
  };
}

function readLearned(data: string): string[] {
  try {
    const value: unknown = JSON.parse(readFileSync(join(data, fileName), 'utf8'));
    return Array.isArray(value) ? value.filter((entry) => typeof entry === 'string' && URL.canParse(entry)) : [];
  } catch {
    return []; // none yet, or not readable: the settings will do
  }
}

/** Writes down the members of the store. */
export function writeLearned(data: string, endpoints: string[]): void {
  const file = join(data, fileName);
  try {
    writeFileSync(`${file}.new`, `${JSON.stringify(endpoints)}\n`);
    renameSync(`${file}.new`, file);
  } catch {
    // A full disk must not end the program for that: they are learned again.
  }
}
