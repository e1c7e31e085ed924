import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { AppError } from '#base/error.ts';
import { labPaths } from '#lab/lab-paths.ts';

/** One process the node's init keeps running. */
export type ServiceSpec = {
  name: string;
  argv: string[];
  /** `never`: as for the guard, whose death must be left to the watchdog. */
  restart: 'always' | 'never';
  /** CPU priority, -20 (first) to 19. */
  nice: number;
  /** Waits for the cluster to be founded: everything but the store itself. */
  needsCluster: boolean;
};

export type LabNode = {
  name: string;
  address: string;
  /** The management controller's own address on the switch; null: this lab has none. */
  controllerAddress: string | null;
};

/** What a lab is, written once by `labUp` and read by the room (and by whoever must clean up after it). */
export type LabSpec = {
  name: string;
  nodes: LabNode[];
  clientAddress: string;
  prefixLength: number;
  /** The lab's directory in the unified control group hierarchy. */
  cgroup: string;
  services: ServiceSpec[];
  controllerUser: string;
  bootDelayMs: number;
  /** The lab ends by itself after this; null: never. */
  ttlMs: number | null;
  /** The lab ends with this process; null: it has no owner. `startTicks` tells a reused pid apart. */
  owner: { pid: number; startTicks: string } | null;
  /** False until the cluster's record was founded; services that need it wait. */
  founded: boolean;
};

/** Returns the lab's own description, or null when there is none on this host. Raises AppError invalid when it is not readable. */
export function readLabSpec(name: string): LabSpec | null {
  let text: string;
  try {
    text = readFileSync(labPaths(name).spec, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
  try {
    return JSON.parse(text) as LabSpec;
  } catch (cause) {
    throw new AppError('invalid', `lab ${name}: ${labPaths(name).spec} is not readable`, { cause });
  }
}

/** Replaces the description whole: a reader sees the old or the new one. */
export function writeLabSpec(spec: LabSpec): void {
  const path = labPaths(spec.name).spec;
  writeFileSync(`${path}.new`, JSON.stringify(spec, null, 2), { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

/** Returns the lab's description. Raises AppError missing when there is no such lab. */
export function requireLabSpec(name: string): LabSpec {
  const spec = readLabSpec(name);
  if (spec === null) throw new AppError('missing', `lab ${name} is not up on this machine; start it with: holdfast lab up`);
  return spec;
}

/** Returns the node of that name. Raises AppError missing naming the ones there are. */
export function requireNode(spec: LabSpec, node: string): LabNode {
  const found = spec.nodes.find((candidate) => candidate.name === node);
  if (found === undefined) {
    throw new AppError(
      'missing',
      `lab ${spec.name} has no node ${JSON.stringify(node)}; it has ${spec.nodes.map((n) => n.name).join(', ')}`,
    );
  }
  return found;
}
