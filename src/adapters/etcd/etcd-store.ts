import { createClient } from '@connectrpc/connect';
import { AppError } from '#base/error.ts';
import type { CallOptions, Store, StoreEntry, StoreHealth } from '#ports/store.ts';
import { askAnyMember } from './etcd-calls.ts';
import { commitOnce } from './etcd-commit.ts';
import type { EtcdTls } from './etcd-connection.ts';
import { listHealth } from './etcd-health.ts';
import { createMembers, type EtcdPatience, type MemberCall } from './etcd-members.ts';
import { formatListRequest, formatReadRequest, parseEntry } from './etcd-messages.ts';
import { watchPrefix } from './etcd-watch.ts';
import { Cluster, KV, type MemberListResponse, type RangeRequest, type RangeResponse } from './gen/etcd_pb.js';

export type EtcdStoreOptions = {
  /** e.g. https://10.77.0.1:2379. The first is asked first, the others when it gives trouble: put this node's own member first. */
  endpoints: string[];
  /** PEM files, read once; null: plain http, for experiments on loopback. */
  tls: EtcdTls | null;
  /** Called with one line when a member is left for another, or a watch cannot go on; for the log. */
  onTrouble?: (text: string) => void;
  /** For callers that wait longer than programs may; they must still not wait for a dead member. */
  patience?: EtcdPatience;
  /** Members that join and leave are noticed while the program runs; `onMembers` is told the endpoints that hold from then on. */
  followMembers?: { everyMs: number; onMembers?: (endpoints: string[]) => void };
};

/**
 * The cluster's record in etcd 3.4 or later. Opens connections when they are needed; disposing ends all calls and watches.
 * Raises AppError missing/invalid when the certificate files or the endpoints cannot be used.
 */
export function createEtcdStore(options: EtcdStoreOptions): Store & StoreHealth & AsyncDisposable {
  const onTrouble = options.onTrouble ?? (() => {});
  const members = createMembers(options.endpoints, options.tls, onTrouble, options.patience);
  const closed = new AbortController();
  const { followMembers } = options;
  const look = followMembers && setInterval(() => void lookForMembers(), followMembers.everyMs).unref();

  /** Trouble means that the members known so far will do for now. */
  async function lookForMembers(): Promise<void> {
    try {
      const list: MemberCall<MemberListResponse> = (transport, rpc) => createClient(Cluster, transport).memberList({}, rpc);
      const { members: listed } = await askAnyMember(members, 'list the members of the store', list, within());
      // One without an address for clients was added and has never run.
      if (members.replace(listed.flatMap(({ clientUrls }) => clientUrls.slice(0, 1)))) {
        followMembers?.onMembers?.(members.all.map(({ endpoint }) => endpoint));
      }
    } catch (error) {
      if (!(error instanceof AppError)) throw error;
    }
  }

  /** The caller's options with our own end added. */
  function within(call: CallOptions = {}): CallOptions {
    return { ...call, signal: call.signal === undefined ? closed.signal : AbortSignal.any([call.signal, closed.signal]) };
  }

  function range(what: string, request: RangeRequest, call: CallOptions | undefined): Promise<RangeResponse> {
    return askAnyMember(members, what, (transport, rpc) => createClient(KV, transport).range(request, rpc), within(call));
  }

  async function list(prefix: string, call?: CallOptions): Promise<{ entries: StoreEntry[]; revision: bigint }> {
    const { kvs, header } = await range(`list ${prefix}`, formatListRequest(prefix), call);
    return { entries: kvs.map(parseEntry), revision: header?.revision ?? 0n };
  }

  return {
    async read(key, call) {
      const [kv] = (await range(`read ${key}`, formatReadRequest(key), call)).kvs;
      return kv === undefined ? null : parseEntry(kv);
    },
    list,
    commit: (compares, writes, call) => commitOnce(members, compares, writes, within(call)),
    watch(prefix, { signal }) {
      const context = { members, list: (what: string, stop: AbortSignal) => list(what, { signal: stop }), onTrouble };
      return watchPrefix(context, prefix, AbortSignal.any([signal, closed.signal]));
    },
    async listMembers(call) {
      // One that joined a moment ago is a member to be asked, not one that is silent.
      if (followMembers !== undefined) await lookForMembers();
      return listHealth(members, within(call));
    },
    async [Symbol.asyncDispose]() {
      clearInterval(look);
      closed.abort(new Error('the store was closed'));
      members.close();
      await Promise.resolve();
    },
  };
}
