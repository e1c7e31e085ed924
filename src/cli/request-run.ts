import { AppError, type ErrorKind } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { keys } from '#core/ha/keys.ts';
import { formatRequest, requestId, type RequestOrder, type RequestProgress, type RequestRecord } from '#core/ha/requests.ts';
import { formatSize } from '#core/text/size.ts';
import { startProgress } from '#cli/progress.ts';
import { changeRecord, readRecord } from '#cli/records.ts';
import type { Session } from '#cli/session.ts';

/**
 * Asks the agent of `node` to do `order`, shows its progress and returns its result lines. A request nobody takes up is
 * withdrawn, also at Ctrl-C; one that runs goes on without us.
 * Raises AppError timeout (not taken up: nothing was changed; or still running after `deadlineMs`) and the error the agent reports.
 */
export async function performRequest(session: Session, node: string, order: RequestOrder, deadlineMs: number): Promise<string[]> {
  const { world } = session;
  const startedAtMs = world.nowMs();
  const id = requestId(startedAtMs, world.chance(8));
  const request: RequestRecord = { id, node, createdAtMs: startedAtMs, ...order, state: 'waiting' };
  // After a lost answer the agent may already be at it: what it wrote stays.
  await changeRecord<RequestRecord>(session, keys.request(id), `request ${id}`, (current) => current ?? request);
  using progress = startProgress(world.err);
  try {
    return await followRequest(session, request, deadlineMs, progress.say);
  } catch (error) {
    if (world.signal.aborted) await withdrawAfterInterrupt(session, request);
    throw error;
  }
}

async function followRequest(
  session: Session,
  request: RequestRecord,
  deadlineMs: number,
  say: (text: string) => void,
): Promise<string[]> {
  const what = formatRequest(request);
  for (;;) {
    const now = await readRecord<RequestRecord>(session, keys.request(request.id));
    if (now === null) throw new AppError('conflict', `asking ${request.node} to ${what}: somebody withdrew the request`);
    const waitedMs = session.world.nowMs() - request.createdAtMs;
    if (now.state === 'done' || now.state === 'failed') {
      await changeRecord(session, keys.request(request.id), `request ${request.id}`, () => null);
      if (now.state === 'done') return now.result;
      throw new AppError(now.error.kind satisfies ErrorKind, `${request.node} could not ${what}: ${now.error.message}`);
    }
    if (now.state === 'waiting' && waitedMs > limits.requestPickupMs && (await withdraw(session, request.id))) {
      throw new AppError(
        'timeout',
        `the agent on ${request.node} did not take up the request to ${what} in ${limits.requestPickupMs / 1000} s; it was withdrawn and nothing was changed; see \`holdfast status\``,
      );
    }
    if (waitedMs > deadlineMs) {
      throw new AppError(
        'timeout',
        `${request.node} still works on: ${what}; it goes on, see \`holdfast requests\` (${request.id})`,
      );
    }
    say(`${request.node}: ${now.state === 'waiting' ? `waiting for the agent to ${what}` : formatProgress(now.progress)}`);
    await session.world.sleep(limits.cliPollMs);
  }
}

async function withdrawAfterInterrupt(session: Session, request: RequestRecord): Promise<void> {
  // The session's own signal is spent; withdrawing must still reach the store.
  const world = { ...session.world, signal: new AbortController().signal };
  const withdrawn = await withdraw({ ...session, world }, request.id);
  const fate = withdrawn
    ? 'the request was withdrawn, nothing was changed'
    : `${request.node} goes on with it, see \`holdfast requests\``;
  world.err.write(`\n${formatRequest(request)}: ${fate}\n`);
}

/** Deletes a request that nobody has taken up. Returns false when it is too late. */
async function withdraw(session: Session, id: string): Promise<boolean> {
  const left = await changeRecord<RequestRecord>(session, keys.request(id), `request ${id}`, (current) =>
    current?.state === 'waiting' ? null : current,
  );
  return left === null;
}

/** What a running request says of itself, e.g. `copying disk0 (1.2 GiB of 4 GiB)`. */
export function formatProgress(progress: RequestProgress): string {
  if (progress.doneBytes === null) return progress.text;
  const total = progress.totalBytes === null ? '' : ` of ${formatSize(progress.totalBytes)}`;
  return `${progress.text} (${formatSize(progress.doneBytes)}${total})`;
}
