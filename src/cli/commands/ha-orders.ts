import type { Command } from 'commander';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { Command as HaOrder } from '#core/ha/manager/facts.ts';
import { isActiveWork } from '#core/ha/manager/memory.ts';
import type { HaMemory } from '#core/ha/records.ts';
import { formatDuration, parseDuration } from '#core/text/duration.ts';
import { parseChoice } from '#core/text/fields.ts';
import { longTimeout, parseTimeout } from '#cli/command-options.ts';
import { performCommand } from '#cli/command-run.ts';
import { followMove, type MoveEnd } from '#cli/move-follow.ts';
import { startProgress } from '#cli/progress.ts';
import { findGuest, findNode, listRecords, readRecord } from '#cli/records.ts';
import type { Act, Session } from '#cli/session.ts';

type WaitOptions = { wait?: boolean; timeout: string };

/** Adds what an operator may tell the manager: move, stop, drain, disarm and their opposites. */
export function addOrderCommands(group: Command, act: Act): void {
  addMoves(group, act);
  group
    .command('stop <guest>')
    .description('want the guest stopped, now')
    .option(
      '--timeout <duration>',
      "how long it may take before it is killed; 0: killed at once; left out: the guest's usual time",
    )
    .action(act((session, [guest], { timeout }) => stopGuest(session, guest ?? '', timeout as string | undefined)));
  addWait(
    group.command('drain <node>').description('move all guests away; they return when it is undrained'),
    'every guest left',
  ).action(act((session, [node], options) => drainNode(session, node ?? '', options as WaitOptions)));
  group
    .command('undrain <node>')
    .description('let guests return to a drained node')
    .action(act((session, [node]) => tellNode(session, node ?? '', 'undrain')));
  group
    .command('release-quarantine <node>')
    .description('let a node that was claimed too often receive guests again')
    .action(act((session, [node]) => tellNode(session, node ?? '', 'release-quarantine')));
  addWait(
    group
      .command('disarm')
      .description('no fencing and no recovery until it is armed again: for work on network or store')
      .requiredOption('--mode <mode>', 'hold: guests are neither started nor stopped; hands-off: they may be moved by hand'),
    'every node has let go of its watchdog',
  ).action(act((session, _args, options) => disarm(session, options as WaitOptions & { mode: string })));
  group
    .command('arm')
    .description('end the disarming: nodes are guarded again')
    .action(act((session) => tell(session, { kind: 'arm' }, 'the cluster is being armed')));
}

function addMoves(group: Command, act: Act): void {
  addWait(
    group
      .command('move <guest> <node>')
      .description('move a guest: it is shut down, its copy there is brought up to date, it starts there')
      .option('--live', 'without shutting it down (not possible yet: refused)'),
    'it runs there',
  ).action(
    act((session, [guest, node], options) =>
      moveGuest(session, guest ?? '', node ?? '', options as WaitOptions & { live?: boolean }),
    ),
  );
  addWait(group.command('relocate <guest> <node>').description('as move, never live'), 'it runs there').action(
    act((session, [guest, node], options) => moveGuest(session, guest ?? '', node ?? '', options as WaitOptions)),
  );
}

function addWait(command: Command, until: string): Command {
  return command.option('--wait', `wait until ${until}`).option('--timeout <duration>', 'how long to wait for that', longTimeout);
}

async function tell(session: Session, command: HaOrder, done: string): Promise<void> {
  const because = await performCommand(session, command);
  session.printer.show({ command, because }, () => `${done}: ${because}\n`);
}

async function tellNode(session: Session, name: string, kind: 'undrain' | 'release-quarantine'): Promise<void> {
  const node = await findNode(session, name);
  await tell(session, { kind, node }, kind === 'undrain' ? `the drain of ${node} is over` : `${node} is released`);
}

async function moveGuest(
  session: Session,
  numberOrName: string,
  node: string,
  options: WaitOptions & { live?: boolean },
): Promise<void> {
  const deadlineMs = parseTimeout(options.timeout);
  if (options.live === true) {
    throw new AppError(
      'unsupported',
      'live: guests cannot be moved while they run yet; without --live the guest is shut down and starts there',
    );
  }
  const guest = await findGuest(session, numberOrName);
  const to = await findNode(session, node);
  const command: HaOrder = { kind: 'move', guest: String(guest.vmid), live: false, to };
  const because = await performCommand(session, command);
  if (options.wait !== true) {
    session.printer.show({ command, because }, () => `guest ${guest.vmid} ${guest.name}: ${because}\n`);
    return;
  }
  const end = await followMove(session, guest, to, deadlineMs);
  session.printer.show({ command, because, end }, () => `guest ${guest.vmid} ${guest.name} ${formatMoveEnd(end)}\n`);
}

function formatMoveEnd({ node, runs, downMs }: MoveEnd): string {
  if (!runs) return `is on ${node} and does not run`;
  return `runs on ${node}; ${downMs === null ? 'how long it was down was not seen' : `it was down for ${formatDuration(downMs)}`}`;
}

async function stopGuest(session: Session, numberOrName: string, timeout: string | undefined): Promise<void> {
  const timeoutMs = timeout === undefined ? null : timeout === '0' ? 0 : parseDuration(timeout, 'timeout');
  const guest = await findGuest(session, numberOrName);
  await tell(session, { kind: 'stop', guest: String(guest.vmid), timeoutMs }, `guest ${guest.vmid} ${guest.name}`);
}

async function drainNode(session: Session, name: string, options: WaitOptions): Promise<void> {
  const deadlineMs = parseTimeout(options.timeout);
  const node = await findNode(session, name);
  const command: HaOrder = { kind: 'drain', node };
  const because = await performCommand(session, command);
  if (options.wait === true) {
    await waitUntil(session, deadlineMs, `draining ${node}: it goes on`, async () => {
      const memory = await readRecord<HaMemory>(session, keys.haMemory);
      const left = await listGuestsOn(session, node);
      if (memory !== null && !memory.drains.includes(node)) {
        throw new AppError(
          'conflict',
          `draining ${node}: somebody ended the drain while guests were on it (${left.length} left)`,
        );
      }
      return left.length === 0 ? null : `still on ${node}: ${left.join('; ')}`;
    });
  }
  const done = options.wait === true ? `${node} is drained: no guest is left on it` : `${node} is being drained: ${because}`;
  session.printer.show({ command, because, drained: options.wait === true }, () => `${done}\n`);
}

/** Guests that have yet to leave, with what holds them. */
async function listGuestsOn(session: Session, node: string): Promise<string[]> {
  const guests = await listRecords<GuestRecord>(session, prefixes.guests);
  return guests.flatMap(({ vmid, name, ha }) =>
    ha !== undefined && ha.node === node && isActiveWork(ha.state) ? [`${vmid} ${name} ${ha.state.kind} (${ha.because})`] : [],
  );
}

async function disarm(session: Session, options: WaitOptions & { mode: string }): Promise<void> {
  const deadlineMs = parseTimeout(options.timeout);
  const mode = parseChoice(options.mode, 'mode', ['hold', 'hands-off']);
  const command: HaOrder = { kind: 'disarm', mode };
  const because = await performCommand(session, command);
  if (options.wait === true) {
    await waitUntil(session, deadlineMs, 'disarming the cluster: it goes on', async () => {
      const memory = await readRecord<HaMemory>(session, keys.haMemory);
      if (memory?.disarm === null) throw new AppError('conflict', 'disarming the cluster: somebody armed it meanwhile');
      return memory?.disarm?.stage === 'complete' ? null : `the disarming is ${memory?.disarm?.stage ?? 'accepted'}`;
    });
  }
  const done =
    options.wait === true ? `the cluster is disarmed (${mode})` : `the cluster is being disarmed (${mode}): ${because}`;
  const after = 'nobody is fenced or recovered until `holdfast ha arm`';
  session.printer.show({ command, because, complete: options.wait === true }, () => `${done}; ${after}\n`);
}

/** Looks until `pending` has nothing more to say. Raises AppError timeout with what it said last. */
async function waitUntil(
  session: Session,
  deadlineMs: number,
  what: string,
  pending: () => Promise<string | null>,
): Promise<void> {
  const begunAtMs = session.world.nowMs();
  using progress = startProgress(session.world.err);
  for (;;) {
    const text = await pending();
    if (text === null) return;
    if (session.world.nowMs() - begunAtMs > deadlineMs) throw new AppError('timeout', `${what}; ${text}`);
    progress.say(text);
    await session.world.sleep(limits.cliPollMs);
  }
}
