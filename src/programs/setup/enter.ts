import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync } from 'node:fs';
import { createEtcdMembership, type ListedMember } from '#adapters/etcd/etcd-membership.ts';
import { requestCertificate } from '#adapters/pki/authority.ts';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { type JoinCode, parseJoinCode } from '#core/cluster/join-code.ts';
import { planMembership } from '#core/cluster/membership.ts';
import type { ClusterRole } from '#core/cluster/join-code.ts';
import { askDoor } from '#programs/join-door/ask.ts';
import type { DoorWelcome } from '#programs/join-door/messages.ts';
import { finishAgain, readBefore } from './found.ts';
import { readMachine } from './machine.ts';
import { readSettings, type Settings, type SetupOptions } from './settings.ts';
import { placeFile, readSetup, setupFiles, setupTls, writeSetup, type SetupRecord } from './setup-file.ts';
import {
  demandFit,
  ownUrls,
  startPrograms,
  startStore,
  waitFor,
  writeSettings,
  writeStoreSettings,
  type SetupParts,
} from './steps.ts';

/**
 * Makes this machine a node (or a witness) of the cluster that gave out a code. Safe to run again after it was cut off anywhere; once
 * its certificate is here the code is no longer asked for. `readCode` is called only when a code is needed.
 */
export async function enterCluster(
  options: SetupOptions & { role: ClusterRole; checkOnly: boolean },
  readCode: () => Promise<string>,
  parts: SetupParts,
): Promise<SetupRecord | null> {
  const { role } = options;
  // The cluster's own profile holds unless another one is asked for; a second run has the first one's settings.
  const earlier = readSetup();
  const typed = earlier === null ? options : { ...earlier, guestsCgroup: earlier.cgroup, ...definedOf(options) };
  const settings = readSettings(typed, role);
  const before = readBefore('join', settings);
  if (before?.state === 'done') return finishAgain(before, parts);
  if (before !== null && isEnrolled()) return await becomeMember(before, parts);
  const code = await readGoodCode(readCode, role);
  parts.say('looking at this machine and at the cluster');
  const { welcome, wanted } = await lookAround(code, settings, options.profile !== undefined);
  demandFit(await readMachine(wanted, before, parts.units), role, { clockAheadMs: welcome.nowMs - Date.now() }, parts.say);
  if (options.checkOnly) return null;
  const machine = before?.machine ?? randomUUID();
  const setup: SetupRecord = {
    ...wanted,
    how: 'join',
    cluster: welcome.cluster,
    machine,
    stores: welcome.endpoints,
    state: 'begun',
  };
  writeSetup(setup);
  await enrol(code, setup, parts.say);
  return becomeMember(setup, parts);
}

function definedOf(options: SetupOptions): SetupOptions {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}

function isEnrolled(): boolean {
  return existsSync(setupFiles.cert);
}

async function readGoodCode(readCode: () => Promise<string>, role: ClusterRole): Promise<JoinCode> {
  const code = parseJoinCode(await readCode());
  if (code.role !== role) {
    const how = code.role === 'witness' ? 'with --witness' : 'without --witness';
    throw new AppError('invalid', `code: it is for a ${code.role}; join ${how}, or make another code; nothing was changed`);
  }
  if (code.expiresAtMs <= Date.now()) {
    const at = new Date(code.expiresAtMs).toISOString();
    throw new AppError(
      'unauthenticated',
      `code: it expired at ${at}; make a new one on a member with: holdfast join-code; nothing was changed`,
    );
  }
  return code;
}

async function lookAround(
  code: JoinCode,
  settings: Settings,
  hasProfile: boolean,
): Promise<{ welcome: DoorWelcome; wanted: Settings }> {
  const { name, address } = settings;
  const welcome = await askDoor(code, { op: 'hello', name, address });
  return {
    welcome,
    wanted: { ...settings, profile: hasProfile || welcome.profile === 'custom' ? settings.profile : welcome.profile },
  };
}

/** The certificate last: with it everything that the door gives is here. */
async function enrol(code: JoinCode, setup: SetupRecord, say: (line: string) => void): Promise<void> {
  say(`enrolling as ${setup.role} ${setup.name} of cluster ${setup.cluster.name}`);
  mkdirSync(setupFiles.pki, { recursive: true, mode: 0o700 });
  const request = await requestCertificate(setupFiles.key, setup.name);
  const { name, address, machine } = setup;
  const { enrolled } = await askDoor(code, { op: 'enrol', name, address, machine, request: request.pem });
  if (enrolled === null) throw new AppError('unavailable', 'enrol: the member gave no certificate; try again');
  placeFile(setupFiles.ca, enrolled.authority, 0o644);
  if (enrolled.authorityKey !== null) placeFile(setupFiles.caKey, enrolled.authorityKey, 0o600);
  placeFile(setupFiles.cert, enrolled.certificate, 0o644);
}

/** From here on the machine speaks for itself, with its certificate. */
async function becomeMember(setup: SetupRecord, parts: SetupParts): Promise<SetupRecord> {
  mkdirSync(setup.data, { recursive: true, mode: 0o755 });
  const endpoints = await joinStore(setup, parts);
  if (setup.role === 'node') {
    parts.say('writing the settings');
    writeSettings(setup, endpoints);
    await startPrograms(setup, endpoints, parts);
  }
  const done: SetupRecord = { ...setup, state: 'done' };
  writeSetup(done);
  return done;
}

/** One step at a time, each from a fresh look at the members. Returns where the store is reached, the own member first. */
async function joinStore(setup: SetupRecord, parts: SetupParts): Promise<string[]> {
  const own = ownUrls(setup);
  await using membership = createEtcdMembership({ endpoints: setup.stores, tls: setupTls });
  let said = '';
  const sayOnce = (line: string) => {
    if (line !== said) parts.say(line);
    said = line;
  };
  let endpoints: string[] = [];
  let started = false;
  const joined = await waitFor(limits.memberReadyMs, async () => {
    const members = await membership.list();
    const others = members
      .filter((member) => !member.peerUrls.includes(own.peer))
      .flatMap(({ clientUrls }) => clientUrls.slice(0, 1));
    const step = planMembership(
      members.map((member) => ({ ...member, healthy: true })),
      { peerUrl: own.peer },
      setup.role,
    );
    switch (step.kind) {
      case 'client-only':
        sayOnce('the store has enough members: this node is its client');
        endpoints = others;
        return true;
      case 'add':
        sayOnce('asking the store for a new member');
        await membership.addLearner(own.peer);
        return false;
      case 'start':
      case 'promote':
      case 'done':
        if (!started) {
          writeStoreSettings(setup, listPeers(members, own.peer, setup.name), 'existing');
          await startStore(parts);
          started = true;
        }
        endpoints = [own.client, ...others];
        if (step.kind === 'promote') {
          sayOnce('waiting until the new member has the whole record, then giving it its vote');
          await membership.promote(step.member.id);
        }
        return step.kind === 'done';
    }
  });
  if (joined) return endpoints;
  throw new AppError(
    'timeout',
    `the new member of the store is not ready after ${limits.memberReadyMs / 1000} s; see journalctl -u holdfast-etcd, then run the same command again`,
  );
}

function listPeers(members: ListedMember[], ownPeer: string, ownName: string): { name: string; peerUrl: string }[] {
  return members.flatMap(({ name, peerUrls }) =>
    peerUrls.slice(0, 1).map((peerUrl) => ({ name: peerUrl === ownPeer ? ownName : name, peerUrl })),
  );
}
