import { existsSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { createEtcdMembership } from '#adapters/etcd/etcd-membership.ts';
import { createEtcdStore } from '#adapters/etcd/etcd-store.ts';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { type Member, planLeave, type Removal } from '#core/cluster/membership.ts';
import { deleteNodeRecords, readMembers, readNodeUse } from './node-records.ts';
import { readSetup, setupFiles, setupTls, type SetupRecord, writeSetup } from './setup-file.ts';
import { ownUrls, type SetupParts, storeOf, waitFor } from './steps.ts';
import { units as names } from './unit-names.ts';

/**
 * Takes this machine out of its cluster; `name` must be its own: nobody leaves by mistake. Disks stay where they are. Safe to run again.
 * Raises AppError conflict with every reason against it (nothing was changed), missing when this machine is in no cluster.
 */
export async function leaveCluster(name: string, parts: SetupParts): Promise<{ notes: string[]; kept: string[] }> {
  const setup = readSetup();
  if (setup === null) throw new AppError('missing', 'leave: this machine is in no cluster');
  if (setup.name !== name) {
    throw new AppError(
      'conflict',
      `leave: this machine is ${setup.name}; run it on ${name} itself, or, if ${name} is dead: holdfast node replace ${name}; nothing was changed`,
    );
  }
  const { leaving, notes } = setup.state === 'leaving' ? { leaving: setup, notes: [] } : await beginLeaving(setup);
  if (setup.role === 'node') await endPrograms(leaving, parts);
  await removeMember(leaving, parts);
  await parts.units.disable(names.etcd);
  return { notes, kept: forgetKeys(leaving) };
}

async function beginLeaving(setup: SetupRecord): Promise<{ leaving: SetupRecord; notes: string[] }> {
  const own = ownUrls(setup);
  const { members, removal } = await lookUntilSettled(async () => {
    const members = await readMembers([own.client, ...setup.stores], setupTls);
    await using store = createEtcdStore(storeOf(members.flatMap(({ clientUrls }) => clientUrls.slice(0, 1))));
    return { members, removal: planLeave(setup.name, members, await readNodeUse(store, setup.name)) };
  });
  refuse(`${setup.name} cannot leave`, removal);
  const stores = listOthers(members, own.client);
  const leaving: SetupRecord = { ...setup, stores, state: 'leaving' };
  writeSetup(leaving);
  return { leaving, notes: removal.notes };
}

function listOthers(members: Member[], ownClient: string): string[] {
  return members.flatMap(({ clientUrls }) => clientUrls.slice(0, 1)).filter((url) => url !== ownClient);
}

/** Looks again while nothing is against a removal but members that do not answer: an election passes, a dead member stays. Returns the last look. */
export async function lookUntilSettled<T extends { removal: Removal }>(look: () => Promise<T>): Promise<T> {
  const untilMs = performance.now() + limits.memberAnswerMs;
  for (;;) {
    const seen = await look();
    const isSettled = seen.removal.kind === 'allowed' || !seen.removal.mayPass;
    if (isSettled || performance.now() > untilMs) return seen;
    await pause(limits.cliPollMs);
  }
}

/** Raises AppError conflict with all reasons. */
export function refuse(what: string, removal: Removal): asserts removal is Extract<Removal, { kind: 'allowed' }> {
  if (removal.kind === 'allowed') return;
  throw new AppError('conflict', `${what}; nothing was changed:\n${removal.because.map((reason) => `  - ${reason}`).join('\n')}`);
}

/** The guard last: it gives the permit back, so nobody has to wait for silence. Then nothing writes about this node any more. */
async function endPrograms(setup: SetupRecord, { units, say }: SetupParts): Promise<void> {
  say('stopping agent, relay and guard');
  for (const unit of [names.nodeEnd, names.agent, names.relay, names.guard]) await units.disable(unit);
  await using store = createEtcdStore(storeOf(setup.stores));
  const given = await waitFor(limits.programsReadyMs, async () => (await readNodeUse(store, setup.name)).permit !== 'granted');
  if (!given)
    throw new AppError('timeout', `the permit of ${setup.name} was neither given back nor claimed; run the same command again`);
  say('deleting the records of this node');
  await deleteNodeRecords(store, setup.name);
}

async function removeMember(setup: SetupRecord, { say }: SetupParts): Promise<void> {
  const own = ownUrls(setup);
  await using membership = createEtcdMembership({ endpoints: setup.stores, tls: setupTls });
  const gone = await waitFor(limits.memberReadyMs, async () => {
    const mine = (await membership.list()).find((member) => member.peerUrls.includes(own.peer));
    if (mine === undefined) return true;
    say('leaving the store');
    await membership.remove(mine.id);
    return false;
  });
  if (!gone) throw new AppError('timeout', 'the store did not let this member go; run the same command again');
}

/** Settings and keys go, setup.json last; the member's record is put aside so that the machine may join again. Returns what was kept. */
function forgetKeys(setup: SetupRecord): string[] {
  const kept: string[] = [setup.data];
  const data = join(setup.data, 'etcd');
  if (existsSync(data)) {
    const aside = `${data}.left-${new Date().toISOString().replaceAll(/[:.]/g, '')}`;
    renameSync(data, aside);
    kept.push(aside);
  }
  rmSync(join(setup.data, 'store-members.json'), { force: true });
  for (const file of [setupFiles.nodeToml, setupFiles.etcdEnv, setupFiles.guardEnv]) rmSync(file, { force: true });
  rmSync(setupFiles.pki, { recursive: true, force: true });
  rmSync(setupFiles.setup, { force: true });
  return kept;
}
