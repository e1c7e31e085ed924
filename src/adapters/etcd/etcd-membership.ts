import { Code, ConnectError, createClient } from '@connectrpc/connect';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { EtcdTls } from './etcd-connection.ts';
import { type EtcdMember, type EtcdMembers, type MemberCall, createMembers } from './etcd-members.ts';
import { Cluster, type Member } from './gen/etcd_pb.js';

/** One member of the store, as its members list it. */
export type ListedMember = { id: bigint; name: string; peerUrls: string[]; clientUrls: string[]; isLearner: boolean };

/**
 * Changes of the store's membership. Each is one try: whoever lost an answer lists again and goes on from there. Raises AppError
 * unavailable or timeout when nobody answered, busy when etcd says not now, conflict when it refuses.
 */
export type EtcdMembership = {
  list(): Promise<ListedMember[]>;
  /** Adds a member that does not vote until it is promoted. One that is there already is fine. */
  addLearner(peerUrl: string): Promise<void>;
  /** busy: it has not caught up yet. */
  promote(id: bigint): Promise<void>;
  /** One that is gone already is fine. */
  remove(id: bigint): Promise<void>;
} & AsyncDisposable;

/** etcd's words (api/v3rpc/rpctypes/error.go of etcd 3.4). */
const notNow = [
  'etcdserver: can only promote a learner member which is in sync with leader',
  'etcdserver: too many learner members in cluster',
  'etcdserver: unhealthy cluster',
  'etcdserver: re-configuration failed due to not enough started members',
];
const alreadyThere = ['etcdserver: Peer URLs already exists', 'etcdserver: member ID already exist'];
const notALearner = 'etcdserver: can only promote a learner member';

/** Speaks to whichever of `endpoints` answers. */
export function createEtcdMembership(options: { endpoints: string[]; tls: EtcdTls | null }): EtcdMembership {
  const members = createMembers(options.endpoints, options.tls, () => {});
  return {
    async list() {
      const { members: listed } = await call(members, 'list the members of the store', (transport, rpc) =>
        createClient(Cluster, transport).memberList({}, rpc),
      );
      return listed.map(parseMember);
    },
    async addLearner(peerUrl) {
      const what = `add ${peerUrl} to the members of the store`;
      const request = { peerUrls: [peerUrl], isLearner: true };
      await ignore(alreadyThere, () =>
        call(members, what, (transport, rpc) => createClient(Cluster, transport).memberAdd(request, rpc)),
      );
    },
    async promote(id) {
      const what = `make member ${id.toString(16)} of the store a voter`;
      await ignore([notALearner], () =>
        call(members, what, (transport, rpc) => createClient(Cluster, transport).memberPromote({ id }, rpc)),
      );
    },
    async remove(id) {
      const what = `remove member ${id.toString(16)} from the store`;
      await ignore(['etcdserver: member not found'], () =>
        call(members, what, (transport, rpc) => createClient(Cluster, transport).memberRemove({ id }, rpc)),
      );
    },
    async [Symbol.asyncDispose]() {
      members.close();
      await Promise.resolve();
    },
  };
}

function parseMember({ id, name, peerUrls, clientUrls, isLearner }: Member): ListedMember {
  return { id, name, peerUrls, clientUrls, isLearner };
}

/** One member after the other until one has taken the request in hand. */
async function call<T>(members: EtcdMembers, what: string, act: MemberCall<T>): Promise<T> {
  const untilMs = performance.now() + limits.membershipCallMs;
  const signal = new AbortController().signal;
  let trouble: unknown;
  let asked: EtcdMember = members.current;
  for (let tries = 0; tries < 2 * members.all.length && performance.now() < untilMs; tries += 1) {
    const attempt = await asked.attempt(act, { what, untilMs, signal });
    if (attempt.kind === 'answer') return attempt.value;
    if (attempt.kind === 'refused') throw attempt.error;
    const said = attempt.error instanceof ConnectError ? attempt.error : null;
    if (said !== null && notNow.includes(said.rawMessage)) {
      throw new AppError('busy', `${what}: the store says not now`, { cause: attempt.error });
    }
    if (said !== null && (said.code === Code.FailedPrecondition || said.code === Code.NotFound)) {
      throw new AppError('conflict', `${what}: the store refuses`, { cause: attempt.error });
    }
    if (attempt.kind === 'lost') asked.distrustConnection();
    trouble = attempt.error;
    asked = members.after(asked);
  }
  throw new AppError('unavailable', `${what}: no member did it; a majority of them must run and reach each other`, {
    cause: trouble,
  });
}

/** What was wanted is so already. */
async function ignore(words: string[], act: () => Promise<unknown>): Promise<void> {
  try {
    await act();
  } catch (error) {
    const cause = error instanceof AppError ? error.cause : null;
    if (!(cause instanceof ConnectError) || !words.includes(cause.rawMessage)) throw error;
  }
}
