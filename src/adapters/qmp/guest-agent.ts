import { connect } from 'node:net';
import { formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { createLineCutter } from './json-lines.ts';

/** `not-set` is nothing wrong with the guest: most often it has no agent installed. */
export type SetTimeOutcome = { kind: 'set' } | { kind: 'not-set'; because: string };

/**
 * Sets the clock of a guest through the QEMU guest agent inside it, after a thaw: the guest's own clock stood still. Never
 * throws; a guest without an agent is told by the outcome, after `deadlineMs`.
 */
export async function setGuestTime(
  socketPath: string,
  wallMs: number,
  options: { deadlineMs?: number } = {},
): Promise<SetTimeOutcome> {
  const deadlineMs = options.deadlineMs ?? limits.guestAgentMs;
  // Nanoseconds since the epoch do not fit a JavaScript number exactly, so the JSON is written by hand.
  const commands = ['{"execute":"guest-ping"}', `{"execute":"guest-set-time","arguments":{"time":${Math.round(wallMs)}000000}}`];
  const answers = await askGuestAgent(socketPath, commands, deadlineMs).catch((error: unknown) => formatErrorChain(error));
  if (typeof answers === 'string') return { kind: 'not-set', because: answers };
  const refusal = answers.find((answer) => answer.error !== undefined);
  if (refusal === undefined) return { kind: 'set' };
  return { kind: 'not-set', because: `the agent in the guest refused: ${refusal.error?.desc ?? 'without a reason'}` };
}

/**
 * `not-frozen` is nothing wrong with the guest: most often it has no agent installed, and then it was not asked. Who did not answer may come to it yet.
 */
export type FreezeOutcome = { kind: 'frozen' } | { kind: 'not-frozen'; asked: 'not' | 'refused' | 'unanswered'; because: string };

/** Lets the agent in the guest bring all file systems to rest, until `thawGuest`. Never throws. */
export async function freezeGuest(socketPath: string, options: { deadlineMs?: number } = {}): Promise<FreezeOutcome> {
  const deadlineMs = options.deadlineMs ?? limits.guestFreezeMs;
  // Whether anybody is there is known soon; the command itself may take its time.
  const absent = await tryCommand(socketPath, 'guest-ping', Math.min(deadlineMs, limits.guestAgentMs));
  if (absent !== null) return { kind: 'not-frozen', asked: 'not', because: absent.because };
  const trouble = await tryCommand(socketPath, 'guest-fsfreeze-freeze', deadlineMs);
  if (trouble === null) return { kind: 'frozen' };
  return { kind: 'not-frozen', asked: trouble.isRefusal ? 'refused' : 'unanswered', because: trouble.because };
}

/** Why a command is not known to have been carried out. `isRefusal`: the agent said so itself; otherwise it did not answer in time. */
export type AgentTrouble = { isRefusal: boolean; because: string };

/**
 * Lets the file systems go on; null when that is known to have been done. Never throws. An agent that does not answer may still do it: the command waits in
 * the guest until the agent comes to it.
 */
export async function thawGuest(socketPath: string, options: { deadlineMs?: number } = {}): Promise<AgentTrouble | null> {
  return await tryCommand(socketPath, 'guest-fsfreeze-thaw', options.deadlineMs ?? limits.guestAgentMs);
}

/** null: done. */
async function tryCommand(socketPath: string, execute: string, deadlineMs: number): Promise<AgentTrouble | null> {
  try {
    const [answer] = await askGuestAgent(socketPath, [JSON.stringify({ execute })], deadlineMs);
    if (answer?.error === undefined) return null;
    return { isRefusal: true, because: `the agent in the guest refused: ${answer.error.desc ?? 'without a reason'}` };
  } catch (error) {
    return { isRefusal: false, because: formatErrorChain(error) };
  }
}

type Answer = { error?: { desc?: string } };

/** Sends the commands and collects one answer each, in order (the agent serves one command after the other). */
export function askGuestAgent(socketPath: string, commands: string[], deadlineMs: number): Promise<Answer[]> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer[]>();
  const socket = connect(socketPath);
  const cutter = createLineCutter(limits.jsonLineBytes);
  const answers: Answer[] = [];
  const syncId = Math.floor(Math.random() * 0x7fffffff);
  let isInStep = false;

  function take(line: string): void {
    const answer = JSON.parse(line) as Answer & { return?: unknown };
    // Whatever comes before our own sync id belongs to an earlier, abandoned conversation.
    if (!isInStep) isInStep = answer.return === syncId;
    else answers.push(answer);
    if (answers.length === commands.length) resolve(answers);
  }

  // qemu-ga: a 0xff byte resets its parser; guest-sync-delimited puts one before its answer, so that old bytes are told apart.
  socket.write(
    Buffer.concat([Buffer.from([0xff]), Buffer.from(`{"execute":"guest-sync-delimited","arguments":{"id":${syncId}}}\n`)]),
  );
  socket.write(commands.map((command) => `${command}\n`).join(''));
  socket.on('data', (chunk: Buffer) => {
    try {
      for (const line of cutter.feed(Buffer.from(chunk.filter((byte) => byte !== 0xff)))) take(line);
    } catch (cause) {
      reject(new Error(`the agent in the guest speaks nonsense on ${socketPath}`, { cause }));
    }
  });
  socket.on('error', (cause) => reject(new Error(`the channel ${socketPath} failed`, { cause })));
  socket.on('close', () => reject(new Error(`the channel ${socketPath} was closed`)));
  const timer = setTimeout(() => reject(new Error(`no agent in the guest answered within ${deadlineMs} ms`)), deadlineMs);
  return promise.finally(() => {
    clearTimeout(timer);
    socket.destroy();
  });
}
