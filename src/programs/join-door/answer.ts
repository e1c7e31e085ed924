import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { dirname, join } from 'node:path';
import { hasShape } from '#core/text/shape.ts';
import { fingerprintOf, readKeyRequest, signRequest } from '#adapters/pki/authority.ts';
import { AppError } from '#base/error.ts';
import { parseNodeName } from '#base/ids.ts';
import { type Ask, type DoorFacts, type JoinCodeRecord, planAdmission } from '#core/cluster/admission.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { NodeInfo, Permit } from '#core/ha/records.ts';
import type { Compare, Store, StoreHealth, Write } from '#ports/store.ts';
import { checkClusterIdentity, type MachineRecord } from '#programs/cluster-identity.ts';
import type { NodeConfig } from '#programs/node-config.ts';
import { type DoorQuestion, type DoorWelcome, doorQuestion } from './messages.ts';

export type DoorParts = {
  config: NodeConfig;
  store: Store & StoreHealth;
  nowMs: () => number;
  /** Told who was let in or refused; never a secret. */
  onJudged: (text: string) => void;
};

/** Answers one question. Raises AppError with words for the machine that asks. */
export async function answerQuestion(parts: DoorParts, raw: Record<string, unknown>): Promise<DoorWelcome> {
  if (!hasShape(doorQuestion, raw))
    throw new AppError('invalid', 'this door does not understand the question; are both machines of one version?');
  const question: DoorQuestion = raw;
  parseNodeName(question.name, 'name');
  if (isIP(question.address) === 0) throw new AppError('invalid', `address: ${question.address} is no IP address`);
  const request = question.op === 'enrol' ? await readKeyRequest(question.request ?? '') : null;
  const ask: Ask = {
    role: question.role,
    secretHash: createHash('sha256').update(question.code.secret).digest('hex'),
    name: question.name,
    address: question.address,
    keyHash: request?.keyHash ?? null,
  };
  if (question.op === 'enrol' && question.role === 'node' && question.machine === undefined) {
    throw new AppError('invalid', 'machine: a node that enrols has to give one');
  }
  await admit(parts, question.code.id, ask, question.machine ?? null);
  return welcome(parts, question, request?.pem ?? null);
}

/** Holds the question against the code's record, and records the use before anything is given out. */
async function admit(parts: DoorParts, id: string, ask: Ask, machine: string | null): Promise<void> {
  const { store } = parts;
  const entry = await store.read(keys.joinCode(id));
  const record = entry === null ? null : (JSON.parse(entry.value) as JoinCodeRecord);
  // A code that another member made is not this clock's to judge.
  const own = record?.madeBy === parts.config.node.name ? record : null;
  const admission = planAdmission(own, ask, await readDoorFacts(parts));
  if (admission.record !== null && entry !== null) {
    const writes = [{ key: entry.key, value: JSON.stringify(admission.record) }];
    const compares = [{ key: entry.key, modRevision: entry.modRevision }];
    if (admission.kind === 'admitted' && ask.role === 'node' && machine !== null) {
      await takeName(parts, ask.name, machine, { compares, writes });
    }
    const outcome = await store.commit(compares, writes);
    if (outcome.kind !== 'committed' && admission.kind === 'admitted') {
      throw new AppError('busy', 'the code could not be marked as used just now; try again');
    }
  }
  const who = `${ask.role} ${ask.name} at ${ask.address}, code ${id}`;
  if (admission.kind === 'refused') {
    parts.onJudged(`${who}: refused: ${admission.because}`);
    throw new AppError(admission.reason, admission.because);
  }
  parts.onJudged(`${who}: ${ask.keyHash === null ? 'asks what it would join' : 'let in'}`);
}

/**
 * From this commit on the name is the new machine's. The permit is written as it is, so that whoever is about to take it (the machine
 * that was declared dead, if it is switched on this moment) loses, looks again, and sees whose name it is.
 */
async function takeName(
  { store, nowMs }: DoorParts,
  name: string,
  machine: string,
  commit: { compares: Compare[]; writes: Write[] },
): Promise<void> {
  const key = keys.nodeMachine(name);
  const [bearer, permit] = [await store.read(key), await store.read(keys.nodePermit(name))];
  if (permit !== null && (JSON.parse(permit.value) as Permit).state === 'granted') {
    throw new AppError('conflict', `the cluster has a ${name} already; choose another --name`);
  }
  const record: MachineRecord = { id: machine, atMs: nowMs() };
  commit.compares.push({ key, modRevision: bearer?.modRevision ?? 0n });
  commit.compares.push({ key: keys.nodePermit(name), modRevision: permit?.modRevision ?? 0n });
  commit.writes.push({ key, value: JSON.stringify(record) });
  if (permit !== null) commit.writes.push({ key: permit.key, value: permit.value });
}

async function readDoorFacts({ store, nowMs }: DoorParts): Promise<DoorFacts> {
  const [{ entries }, replaced, members] = await Promise.all([
    store.list(prefixes.nodes),
    store.list(prefixes.replacedNodes),
    store.listMembers(),
  ]);
  const dead = new Set(replaced.entries.map((entry) => entry.key.slice(prefixes.replacedNodes.length)));
  const read = <T>(key: string) => {
    const entry = entries.find((candidate) => candidate.key === key);
    return entry === undefined ? null : (JSON.parse(entry.value) as T);
  };
  const names = new Set(entries.map((entry) => entry.key.slice(prefixes.nodes.length).split('/')[0] ?? ''));
  const nodes = [...names]
    .filter((name) => read(keys.nodeInfo(name)) !== null || read(keys.nodePermit(name)) !== null)
    .map((name) => ({
      name,
      address: read<NodeInfo>(keys.nodeInfo(name))?.address ?? null,
      isDead: dead.has(name) && read<Permit>(keys.nodePermit(name))?.state !== 'granted',
    }));
  const witnesses = members
    .filter((member) => !names.has(member.name) && member.name !== member.endpoint)
    .map((member) => ({ name: member.name, address: new URL(member.endpoint).hostname.replaceAll(/[[\]]/g, ''), isDead: false }));
  return { nowMs: nowMs(), taken: [...nodes.map((node) => (node.isDead ? { ...node, address: null } : node)), ...witnesses] };
}

async function welcome(
  { config, store, nowMs }: DoorParts,
  question: DoorQuestion,
  request: string | null,
): Promise<DoorWelcome> {
  const { id, name } = await checkClusterIdentity(store, { clusterId: config.node.cluster, node: config.node.name });
  const members = await store.listMembers();
  const endpoints = members.filter((member) => member.healthy).map((member) => member.endpoint);
  const base = { ok: true, cluster: { id, name }, nowMs: nowMs(), profile: config.timing.profile, endpoints } as const;
  if (request === null || config.etcd.tls === null) return { ...base, enrolled: null };
  const { caFile } = config.etcd.tls;
  const directory = dirname(caFile);
  const certificate = await signRequest(directory, request, { name: question.name, addresses: [question.address], kind: 'node' });
  const authority = await readFile(caFile, 'utf8');
  const authorityKey = question.role === 'node' ? await readFile(join(directory, 'ca.key'), 'utf8') : null;
  return { ...base, enrolled: { certificate, authority, authorityKey } };
}

/** The fingerprint that codes of this node's cluster carry. Raises AppError unsupported where the authority's key is not kept. */
export async function readDoorFingerprint(config: Pick<NodeConfig, 'etcd' | 'node'>): Promise<string> {
  try {
    if (config.etcd.tls === null) throw new Error('the store is reached without certificates');
    await readFile(join(dirname(config.etcd.tls.caFile), 'ca.key'));
    return fingerprintOf(await readFile(config.etcd.tls.caFile, 'utf8'));
  } catch (cause) {
    throw new AppError(
      'unsupported',
      `${config.node.name} does not keep the key of the cluster's authority: make the code on another node`,
      {
        cause,
      },
    );
  }
}
