import { setTimeout as pause } from 'node:timers/promises';
import { createClient } from '@connectrpc/connect';
import { limits } from '#base/limits.ts';
import type { CallOptions, CommitOutcome, Compare, Write } from '#ports/store.ts';
import { formatNoAnswer, leaveTroubled } from './etcd-calls.ts';
import type { EtcdMembers } from './etcd-members.ts';
import { pickTelling } from './etcd-trouble.ts';
import { formatCommitRequest } from './etcd-messages.ts';
import { KV } from './gen/etcd_pb.js';

/**
 * Sends a transaction to one member after the other until one has it in hand; from then on there is one answer or `maybe`,
 * never a second try. Raises AppError unavailable when it is certain that no member took it, invalid when etcd refuses its form.
 */
export async function commitOnce(
  members: EtcdMembers,
  compares: Compare[],
  writes: Write[],
  options: CallOptions = {},
): Promise<CommitOutcome> {
  const request = formatCommitRequest(compares, writes);
  const what = `commit ${writes.map(({ key }) => key).join(', ')}`;
  const deadlineMs = options.deadlineMs ?? limits.etcdCallMs;
  const untilMs = performance.now() + deadlineMs;
  const signal = options.signal ?? new AbortController().signal;
  let trouble: unknown;
  let refusals = 0;
  while (performance.now() < untilMs && !signal.aborted) {
    const member = members.current;
    const attempt = await member.attempt((transport, call) => createClient(KV, transport).txn(request, call), {
      what,
      untilMs,
      signal,
    });
    if (attempt.kind === 'refused') throw attempt.error;
    if (attempt.kind === 'answer') {
      const { succeeded, header } = attempt.value;
      return succeeded ? { kind: 'committed', revision: header?.revision ?? 0n } : { kind: 'conflict' };
    }
    if (!signal.aborted) leaveTroubled(members, member, attempt, members.after(member));
    if (attempt.kind === 'lost') return { kind: 'maybe', cause: attempt.error };
    trouble = pickTelling(trouble, attempt.error);
    refusals += 1;
    if (refusals % members.all.length === 0) await pause(limits.etcdRetryMs);
  }
  throw formatNoAnswer(members, what, { deadlineMs, silent: false, trouble, signal: options.signal });
}
