import { setTimeout as pause } from 'node:timers/promises';
import { Code, ConnectError } from '@connectrpc/connect';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { CallOptions } from '#ports/store.ts';
import type { Attempt, EtcdMember, EtcdMembers, MemberCall } from './etcd-members.ts';
import { isBadServerCertificate, pickTelling } from './etcd-trouble.ts';

type Question<T> = { member: EtcdMember; askedMs: number; answer: Promise<{ member: EtcdMember; attempt: Attempt<T> }> };

/**
 * A call that may be made twice without harm: asks the current member, after a while of silence (`patience.hedgeMs`) the next one as
 * well, and at once when one refuses; the first answer counts. Raises AppError timeout when a member was still silent at the deadline,
 * unavailable when all refused, unauthenticated when the certificates do not fit.
 */
export async function askAnyMember<T>(
  members: EtcdMembers,
  what: string,
  call: MemberCall<T>,
  options: CallOptions = {},
): Promise<T> {
  const deadlineMs = options.deadlineMs ?? limits.etcdCallMs;
  const untilMs = performance.now() + deadlineMs;
  const gaveUp = () => options.signal?.aborted === true;
  const over = new AbortController();
  const signal = options.signal === undefined ? over.signal : AbortSignal.any([options.signal, over.signal]);
  const asked = new Map<EtcdMember, Question<T>>();
  let next: EtcdMember | null = members.current;
  let trouble: unknown;
  let refusals = 0;
  try {
    while (performance.now() < untilMs && !gaveUp()) {
      if (next !== null) asked.set(next, ask(next, call, { what, untilMs, signal }));
      const answered = await firstAnswer(asked, untilMs, members.patience.hedgeMs);
      if (answered === null) {
        next = members.all.find((member) => !asked.has(member)) ?? null;
        continue;
      }
      const { member, attempt } = answered;
      asked.delete(member);
      if (attempt.kind === 'answer') {
        leaveSilent(members, asked, member);
        return attempt.value;
      }
      if (attempt.kind === 'refused') throw attempt.error;
      if (gaveUp()) break;
      trouble = pickTelling(trouble, attempt.error);
      next = members.after(member);
      leaveTroubled(members, member, attempt, next);
      if (asked.has(next)) next = null;
      refusals += 1;
      if (refusals % members.all.length === 0) await pause(limits.etcdRetryMs);
    }
    if (!gaveUp()) leaveAll(members, asked);
    throw formatNoAnswer(members, what, {
      deadlineMs,
      silent: asked.size > 0 || isDeadline(trouble),
      trouble,
      signal: options.signal,
    });
  } finally {
    over.abort();
  }
}

function ask<T>(member: EtcdMember, call: MemberCall<T>, options: Parameters<EtcdMember['attempt']>[1]): Question<T> {
  const answer = member.attempt(call, options).then((attempt) => ({ member, attempt }));
  return { member, askedMs: performance.now(), answer };
}

/** The first of the answers; null when none came within the time after which one more member is asked. */
async function firstAnswer<T>(asked: Map<EtcdMember, Question<T>>, untilMs: number, hedgeMs: number) {
  const waited = Promise.withResolvers<null>();
  const timer = setTimeout(() => waited.resolve(null), Math.max(1, Math.min(hedgeMs, untilMs - performance.now())));
  try {
    return await Promise.race([...[...asked.values()].map(({ answer }) => answer), waited.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** Another member was quicker by a whole hedge: do not ask the silent one first again, and not over the same connection. */
function leaveSilent<T>(members: EtcdMembers, asked: Map<EtcdMember, Question<T>>, answered: EtcdMember): void {
  for (const { member, askedMs } of asked.values()) {
    const silentMs = performance.now() - askedMs;
    if (silentMs < members.patience.hedgeMs) continue;
    member.distrustConnection();
    members.leave(member, `no answer in ${Math.round(silentMs)} ms`, answered);
  }
}

/** The deadline passed in silence. */
function leaveAll<T>(members: EtcdMembers, asked: Map<EtcdMember, Question<T>>): void {
  for (const member of asked.keys()) {
    member.distrustConnection();
    members.leave(member, 'no answer before the deadline');
  }
}

function isDeadline(trouble: unknown): boolean {
  return trouble instanceof ConnectError && trouble.code === Code.DeadlineExceeded;
}

/** After a refusal the connection is good; after anything else it is not to be trusted. */
export function leaveTroubled(
  members: EtcdMembers,
  member: EtcdMember,
  attempt: { kind: 'not-applied' | 'lost'; error: unknown },
  to: EtcdMember,
): void {
  if (attempt.kind === 'lost') member.distrustConnection();
  members.leave(member, attempt.error, to);
}

/** The error of a call that no member answered. */
export function formatNoAnswer(
  members: EtcdMembers,
  what: string,
  facts: { deadlineMs: number; silent: boolean; trouble: unknown; signal: AbortSignal | undefined },
): AppError {
  const endpoints = members.all.map((member) => member.endpoint).join(', ');
  if (facts.signal?.aborted === true) {
    return new AppError('unavailable', `${what}: given up by the caller`, { cause: facts.signal.reason });
  }
  if (isBadServerCertificate(facts.trouble)) {
    const advice = `the servers at ${endpoints} show certificates that ${members.tls?.caFile ?? 'nobody'} does not vouch for; compare the authority there and here`;
    return new AppError('unauthenticated', `${what}: ${advice}`, { cause: facts.trouble });
  }
  const kind = facts.silent ? 'timeout' : 'unavailable';
  const advice = `no etcd member of ${endpoints} could answer within ${facts.deadlineMs} ms; a majority of them must run and reach each other`;
  return new AppError(kind, `${what}: ${advice}`, { cause: facts.trouble });
}
