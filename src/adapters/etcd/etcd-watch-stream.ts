import { create } from '@bufbuild/protobuf';
import { createClient } from '@connectrpc/connect';
import { limits } from '#base/limits.ts';
import type { WatchBatch } from '#ports/store.ts';
import { type EtcdConnection } from './etcd-connection.ts';
import { type EtcdMember, leaderRequired } from './etcd-members.ts';
import { encodePrefix, parseChange } from './etcd-messages.ts';
import { Watch, type WatchRequest, WatchRequestSchema, type WatchResponse } from './gen/etcd_pb.js';

/**
 * - left: go on elsewhere from `revision`, the last one handed over. `dead`: the member did not answer at all. `opened`: it had.
 * - history-lost: the changes behind `revision` are gone (compacted, or more than the reader's queue holds).
 */
export type StreamEnd =
  | { kind: 'left'; revision: bigint; because: unknown; dead: boolean; opened: boolean }
  | { kind: 'history-lost' };

export type StreamOrder = {
  prefix: string;
  /** The last revision handed over; changes behind it are wanted. */
  revision: bigint;
  stop: AbortSignal;
  push(batch: WatchBatch): boolean;
};

/** A timer that was late may only have slept itself: give what lies in the socket this long to be read before judging. */
const graceMs = 50;

/**
 * One watch on a connection of its own: etcd 3.4 answers a progress request for a whole stream, and a session's flow control
 * is shared. Never throws.
 */
export async function followStream(member: EtcdMember, order: StreamOrder): Promise<StreamEnd> {
  let connection: EtcdConnection;
  try {
    connection = await member.connect(order.stop);
  } catch (error) {
    return { kind: 'left', revision: order.revision, because: error, dead: true, opened: false };
  }
  const silence = new AbortController();
  const requests = createRequests();
  const liveness = watchLiveness(
    () => requests.push(progressRequest()),
    () => silence.abort(new Error(`silent for ${limits.watchSilenceMs} ms`)),
  );
  const place = { revision: order.revision, opened: false };
  try {
    requests.push(createRequest(order.prefix, order.revision + 1n));
    const options = { signal: AbortSignal.any([order.stop, silence.signal]), headers: leaderRequired };
    for await (const response of createClient(Watch, connection.transport).watch(requests.stream(), options)) {
      liveness.heard();
      place.opened = true;
      if (response.canceled) return parseCancel(response, place);
      if (!handOver(response, place, order)) return { kind: 'history-lost' };
    }
    return { kind: 'left', ...place, because: 'the member ended the watch', dead: false };
  } catch (error) {
    return {
      kind: 'left',
      ...place,
      because: silence.signal.aborted ? silence.signal.reason : error,
      dead: silence.signal.aborted,
    };
  } finally {
    liveness.stop();
    requests.end();
    connection.close();
  }
}

function parseCancel(response: WatchResponse, place: { revision: bigint; opened: boolean }): StreamEnd {
  if (response.compactRevision > 0n) return { kind: 'history-lost' };
  return { kind: 'left', ...place, because: response.cancelReason || 'the member cancelled the watch', dead: false };
}

/**
 * The place moves with events only. The revision in a response's header is no place to resume from: etcd before 3.4.25
 * sends progress answers that run ahead of events still under way (etcd issue 15220).
 */
function handOver(response: WatchResponse, place: { revision: bigint }, order: StreamOrder): boolean {
  const fresh = response.events.map(parseChange).filter(({ revision }) => revision > place.revision);
  const last = fresh.at(-1);
  if (last === undefined) return true;
  place.revision = last.revision;
  const changes = fresh.map(({ key, entry }) => ({ key, entry }));
  return order.push({ kind: 'changes', changes, revision: last.revision });
}

function createRequest(prefix: string, startRevision: bigint): WatchRequest {
  return create(WatchRequestSchema, {
    requestUnion: { case: 'createRequest', value: { ...encodePrefix(prefix), startRevision } },
  });
}

function progressRequest(): WatchRequest {
  return create(WatchRequestSchema, { requestUnion: { case: 'progressRequest', value: {} } });
}

/** The sending half of the stream: what is pushed goes out, `end` closes it. */
function createRequests() {
  const waiting: WatchRequest[] = [];
  let ended = false;
  let bell = Promise.withResolvers<void>();
  async function* stream(): AsyncGenerator<WatchRequest> {
    while (!ended) {
      const request = waiting.shift();
      if (request !== undefined) {
        yield request;
        continue;
      }
      bell = Promise.withResolvers<void>();
      await bell.promise;
    }
  }
  return {
    stream,
    push(request: WatchRequest) {
      waiting.push(request);
      bell.resolve();
    },
    end() {
      ended = true;
      bell.resolve();
    },
  };
}

/** Asks for a sign of life every `limits.watchProgressMs` and reports silence of `limits.watchSilenceMs` once. */
function watchLiveness(askProgress: () => void, onSilence: () => void) {
  let heardMs = performance.now();
  const asking = setInterval(askProgress, limits.watchProgressMs);
  let silence = setTimeout(judge, limits.watchSilenceMs);
  function judge(): void {
    silence = setTimeout(() => {
      const silentMs = performance.now() - heardMs;
      if (silentMs >= limits.watchSilenceMs) onSilence();
      else silence = setTimeout(judge, limits.watchSilenceMs - silentMs);
    }, graceMs);
  }
  return {
    heard() {
      heardMs = performance.now();
    },
    stop() {
      clearInterval(asking);
      clearTimeout(silence);
    },
  };
}
