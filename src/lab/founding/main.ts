/**
 * The part of `lab up` that speaks to the store and therefore runs in the lab's client namespace.
 *
 *   found:  wait for a leader -> the cluster's record -> one record per management controller
 *   ready:  wait until every guard serves and every agent has written what its node has
 *
 * Arguments: --name LAB --cluster ID found|ready. Writes one line of progress a change to standard output; an AppError as one line
 * of JSON {kind, message} to standard error, exit code 1.
 */
import { parseArgs } from 'node:util';
import { join } from 'node:path';
import { createEtcdStore } from '#adapters/etcd/etcd-store.ts';
import { assert } from '#base/assert.ts';
import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { keys } from '#core/ha/keys.ts';
import type { BmcRecord, Heartbeat } from '#core/ha/records.ts';
import { storeEndpoints } from '#lab/founding/services.ts';
import { nodeView } from '#lab/founding/services.ts';
import { labLimits } from '#lab/lab-limits.ts';
import { labPaths } from '#lab/lab-paths.ts';
import { requireLabSpec } from '#lab/lab-spec.ts';
import { simulatorCipherSuite, controllerPort } from '#lab/room/controller.ts';
import { waitFor } from '#lab/wait-for.ts';
import { foundCluster } from '#programs/cluster-identity.ts';
import type { Store } from '#ports/store.ts';

const { values: options, positionals } = parseArgs({
  options: { name: { type: 'string' }, cluster: { type: 'string' } },
  allowPositionals: true,
});
assert(options.name !== undefined && options.cluster !== undefined, 'founding: argument missing');
const clusterId = options.cluster;
const spec = requireLabSpec(options.name);
const { pki } = labPaths(spec.name);

let last = '';
function say(text: string): void {
  if (text !== last) process.stdout.write(`${text}\n`);
  last = text;
}

/** Trouble of one look is no trouble: the next look tells. */
async function look<T>(read: () => Promise<T>): Promise<T | null> {
  try {
    return await read();
  } catch (error) {
    if (isAppError(error, 'unavailable', 'timeout')) return null;
    throw error;
  }
}

async function found(store: ReturnType<typeof createEtcdStore>): Promise<void> {
  const hasLeader = async () => {
    const members = await store.listMembers();
    say(`store: ${members.filter((member) => member.healthy).length} of ${spec.nodes.length} members healthy`);
    return members.length === spec.nodes.length && members.every((member) => member.healthy);
  };
  if (!(await waitFor(hasLeader, labLimits.storeLeaderMs))) {
    throw new AppError('timeout', `the store has no healthy majority after ${labLimits.storeLeaderMs} ms`);
  }
  await retry('founding the cluster', () => foundCluster(store, { id: clusterId, name: spec.name, createdAtMs: Date.now() }));
  for (const node of spec.nodes) {
    if (node.controllerAddress === null) continue;
    const record: BmcRecord = {
      kind: 'ipmilan',
      address: node.controllerAddress,
      port: controllerPort,
      user: spec.controllerUser,
      passwordFile: join(nodeView.secrets, `bmc-${node.name}`),
      cipherSuite: simulatorCipherSuite,
    };
    await retry(`recording the controller of ${node.name}`, () =>
      writeOnce(store, keys.nodeBmc(node.name), JSON.stringify(record)),
    );
  }
  say('cluster founded');
}

/** A new store elects and re-elects while its members find each other. */
async function retry(what: string, act: () => Promise<unknown>): Promise<void> {
  let cause: unknown;
  const done = await waitFor(async () => {
    try {
      await act();
      return true;
    } catch (error) {
      if (!isAppError(error, 'unavailable', 'timeout')) throw error;
      cause = error;
      return false;
    }
  }, labLimits.storeLeaderMs);
  if (!done) throw new AppError('timeout', `${what}: the store did not take it within ${labLimits.storeLeaderMs} ms`, { cause });
}

async function writeOnce(store: Store, key: string, value: string): Promise<void> {
  if ((await store.read(key))?.value === value) return;
  const outcome = await store.commit([{ key, modRevision: 0n }], [{ key, value }]);
  if (outcome.kind !== 'committed') throw new AppError('unavailable', `writing ${key}: ${outcome.kind}`);
}

async function ready(store: Store): Promise<void> {
  let missing: string[] = [];
  const allReady = async () => {
    const looks = await Promise.all(spec.nodes.map((node) => look(() => findMissing(store, node.name))));
    missing = looks.flatMap((parts, index) => parts ?? [`${spec.nodes[index]?.name}: store does not answer`]);
    say(missing.length === 0 ? 'every guard serves, every agent has reported its node' : `waiting for ${missing.join(', ')}`);
    return missing.length === 0;
  };
  if (!(await waitFor(allReady, labLimits.programsReadyMs))) {
    throw new AppError('timeout', `not ready after ${labLimits.programsReadyMs} ms: ${missing.join(', ')}`);
  }
}

async function findMissing(store: Store, node: string): Promise<string[]> {
  const heartbeat = await store.read(keys.nodeHeartbeat(node));
  const info = await store.read(keys.nodeInfo(node));
  const serves = heartbeat !== null && (JSON.parse(heartbeat.value) as Heartbeat).phase === 'serving';
  return [...(serves ? [] : [`guard of ${node}`]), ...(info === null ? [`agent of ${node}`] : [])];
}

try {
  await using store = createEtcdStore({
    endpoints: storeEndpoints(spec.nodes),
    tls: { caFile: join(pki, 'ca.pem'), certFile: join(pki, 'client.pem'), keyFile: join(pki, 'client.key') },
  });
  await (positionals[0] === 'found' ? found(store) : ready(store));
} catch (error) {
  if (!isAppError(error)) throw error;
  process.stderr.write(`${JSON.stringify({ kind: error.kind, message: formatErrorChain(error) })}\n`);
  process.exitCode = 1;
}
