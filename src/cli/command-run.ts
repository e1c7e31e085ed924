import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { keys } from '#core/ha/keys.ts';
import type { Command } from '#core/ha/manager/facts.ts';
import type { HaCommand } from '#core/ha/records.ts';
import { requestId } from '#core/ha/requests.ts';
import { startProgress } from '#cli/progress.ts';
import { changeRecord, readRecord } from '#cli/records.ts';
import type { Session } from '#cli/session.ts';

/**
 * Gives the manager a command and returns why it was accepted. A command that nobody takes in time is withdrawn, also at Ctrl-C.
 * Raises AppError conflict (refused: nothing was changed) and timeout (nobody took it: nothing was changed).
 */
export async function performCommand(session: Session, command: Command): Promise<string> {
  const { world } = session;
  const createdAtMs = world.nowMs();
  const id = requestId(createdAtMs, world.chance(8));
  const record: HaCommand = { id, command, createdAtMs, state: 'waiting', because: '' };
  try {
    // After a lost answer the manager may have taken it already: what it wrote stays.
    await changeRecord<HaCommand>(session, keys.haCommand(id), `command ${id}`, (current) => current ?? record);
    return await followCommand(session, record);
  } catch (error) {
    if (world.signal.aborted) await withdrawAfterInterrupt(session, record);
    throw error;
  }
}

async function followCommand(session: Session, { id, command, createdAtMs }: HaCommand): Promise<string> {
  const what = formatCommand(command);
  using progress = startProgress(session.world.err);
  for (;;) {
    const now = await readRecord<HaCommand>(session, keys.haCommand(id));
    if (now === null) throw new AppError('conflict', `asking the manager to ${what}: somebody withdrew the command`);
    if (now.state !== 'waiting') {
      await changeRecord(session, keys.haCommand(id), `command ${id}`, () => null);
      if (now.state === 'accepted') return now.because;
      throw new AppError('conflict', `the manager refused to ${what}: ${now.because}; nothing was changed`);
    }
    if (session.world.nowMs() - createdAtMs > limits.commandPickupMs && (await withdraw(session, id))) {
      throw new AppError(
        'timeout',
        `no manager took the command to ${what} in ${limits.commandPickupMs / 1000} s; it was withdrawn and nothing was changed; see \`holdfast status\``,
      );
    }
    progress.say(`waiting for the manager to take: ${what}`);
    await session.world.sleep(limits.cliPollMs);
  }
}

async function withdrawAfterInterrupt(session: Session, { id, command }: HaCommand): Promise<void> {
  // The session's own signal is spent; withdrawing must still reach the store.
  const world = { ...session.world, signal: new AbortController().signal };
  const withdrawn = await withdraw({ ...session, world }, id);
  const fate = withdrawn
    ? 'the command was withdrawn, nothing was changed'
    : 'the manager has answered it, see `holdfast ha events`';
  world.err.write(`\n${formatCommand(command)}: ${fate}\n`);
}

/** Deletes a command that nobody has taken. Returns false when it is too late. */
async function withdraw(session: Session, id: string): Promise<boolean> {
  let taken = false;
  await changeRecord<HaCommand>(session, keys.haCommand(id), `command ${id}`, (current) => {
    taken = current !== null && current.state !== 'waiting';
    return taken ? current : null;
  });
  return !taken;
}

/** What a command asks for, for people. */
export function formatCommand(command: Command): string {
  switch (command.kind) {
    case 'move':
      return `move guest ${command.guest} to ${command.to}`;
    case 'stop':
      return command.timeoutMs === 0 ? `kill guest ${command.guest}` : `stop guest ${command.guest}`;
    case 'drain':
      return `drain ${command.node}`;
    case 'undrain':
      return `end the drain of ${command.node}`;
    case 'disarm':
      return `disarm the cluster (${command.mode})`;
    case 'arm':
      return 'arm the cluster';
    case 'release-quarantine':
      return `release ${command.node} from quarantine`;
  }
}
