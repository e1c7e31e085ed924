import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { createAuthority, issueCertificate } from '#adapters/pki/authority.ts';
import { createEtcdStore } from '#adapters/etcd/etcd-store.ts';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { foundCluster, recordMachine } from '#programs/cluster-identity.ts';
import { readMachine } from './machine.ts';
import { describeDifference, readSettings, type Settings, type SetupOptions } from './settings.ts';
import { readSetup, setupFiles, setupTls, writeSetup, type SetupRecord } from './setup-file.ts';
import {
  demandFit,
  ownUrls,
  startPrograms,
  startStore,
  storeOf,
  waitFor,
  writeSettings,
  writeStoreSettings,
  type SetupParts,
} from './steps.ts';

const clusterNamePattern = /^[\p{L}\p{N}][\p{L}\p{N} ._-]{0,47}$/u;

/**
 * Makes this machine the first node of a new cluster. Safe to run again after it was cut off anywhere: what is there is kept. Raises
 * AppError invalid (an option), conflict (preflight: all problems at once; or the machine is something else), and what a step raises.
 */
export async function foundNode(
  options: SetupOptions & { clusterName?: string; checkOnly: boolean },
  parts: SetupParts,
): Promise<SetupRecord | null> {
  const settings = readSettings(options, 'node');
  const clusterName = options.clusterName ?? settings.name;
  if (!clusterNamePattern.test(clusterName))
    throw new AppError('invalid', `cluster-name: ${JSON.stringify(clusterName)} is no name of a cluster`);
  const before = readBefore('init', settings);
  if (before?.state === 'done') return finishAgain(before, parts);
  parts.say('looking at this machine');
  demandFit(await readMachine(settings, before, parts.units), 'node', null, parts.say);
  if (options.checkOnly) return null;
  const cluster = before?.cluster ?? { id: randomUUID(), name: clusterName };
  const setup: SetupRecord = {
    ...settings,
    how: 'init',
    cluster,
    machine: before?.machine ?? randomUUID(),
    stores: [],
    state: 'begun',
  };
  writeSetup(setup);
  mkdirSync(setup.data, { recursive: true, mode: 0o755 });
  await makeCertificates(setup, parts.say);
  parts.say('writing the settings');
  const own = ownUrls(setup);
  writeStoreSettings(setup, [{ name: setup.name, peerUrl: own.peer }], 'new');
  writeSettings(setup, [own.client]);
  await startStore(parts);
  await recordCluster(setup, own.client, parts.say);
  await startPrograms(setup, [own.client], parts);
  const done: SetupRecord = { ...setup, state: 'done' };
  writeSetup(done);
  return done;
}

/** What an earlier run wrote. Raises AppError conflict when this machine is or becomes something else. */
export function readBefore(how: SetupRecord['how'], settings: Settings): SetupRecord | null {
  const before = readSetup();
  if (before === null) return null;
  const is = `this machine ${before.state === 'done' ? 'is' : 'is becoming'} ${before.role} ${before.name} of cluster ${before.cluster.name}`;
  if (before.how !== how) throw new AppError('conflict', `${is}, by holdfast ${before.how}; nothing was changed`);
  if (before.state === 'leaving')
    throw new AppError('conflict', `${is}, and is leaving it: finish with holdfast leave; nothing was changed`);
  const difference = describeDifference(before, settings);
  if (difference !== null)
    throw new AppError('conflict', `${is}: ${difference}; give the same options to go on; nothing was changed`);
  return before;
}

/** Everything was done once: only what has to run is seen to. */
export async function finishAgain(setup: SetupRecord, parts: SetupParts): Promise<SetupRecord> {
  parts.say(`this machine is ${setup.role} ${setup.name} of cluster ${setup.cluster.name} already`);
  await startStore(parts);
  if (setup.role === 'node') await startPrograms(setup, [ownUrls(setup).client, ...setup.stores], parts);
  return setup;
}

async function makeCertificates(setup: SetupRecord, say: (line: string) => void): Promise<void> {
  say('making the cluster’s authority and this node’s certificate');
  // Cut off between the two files: a key without its certificate has signed nothing.
  if (!existsSync(setupFiles.ca)) {
    rmSync(setupFiles.caKey, { force: true });
    await createAuthority(setupFiles.pki, { clusterName: setup.cluster.name });
  }
  if (existsSync(setupFiles.cert)) return;
  await issueCertificate(setupFiles.pki, { name: setup.name, addresses: [setup.address], kind: 'node', out: setupTls });
}

async function recordCluster(setup: SetupRecord, endpoint: string, say: (line: string) => void): Promise<void> {
  say('founding the cluster');
  await using store = createEtcdStore(storeOf([endpoint]));
  const founded = await waitFor(limits.memberReadyMs, async () => {
    await foundCluster(store, { ...setup.cluster, createdAtMs: Date.now() });
    await recordMachine(store, setup.name, { id: setup.machine, atMs: Date.now() });
    return true;
  });
  if (!founded) throw new AppError('timeout', 'the store did not take the cluster’s record; see journalctl -u holdfast-etcd');
}
