import type { Command } from 'commander';
import { limits } from '#base/limits.ts';
import { prefixes } from '#core/ha/keys.ts';
import type { HaEvent } from '#core/ha/records.ts';
import { formatProof } from '#core/ha/verdict.ts';
import { formatDuration } from '#core/text/duration.ts';
import { parseWholeNumber } from '#core/text/fields.ts';
import type { Cell } from '#core/text/table.ts';
import { addManagedGuestCommands } from '#cli/commands/ha-guests.ts';
import { addManagedNodesCommand } from '#cli/commands/ha-nodes.ts';
import { addOrderCommands } from '#cli/commands/ha-orders.ts';
import { addRuleCommands } from '#cli/commands/ha-rules.ts';
import { addSettingsCommand } from '#cli/commands/ha-settings.ts';
import { listRecords } from '#cli/records.ts';
import { clusterActions, tableWithoutHead, type Session } from '#cli/session.ts';
import { formatTimeMs } from '#cli/time.ts';
import type { CliWorld } from '#cli/world.ts';

type EventOptions = { limit: string; follow?: boolean };

/** Adds the group `ha` to the program. Without a subcommand it shows the timeline. */
export function addHaCommands(program: Command, world: CliWorld, run: (code: number) => void): void {
  const group = program
    .command('ha')
    .description('the manager: what it does with guests and nodes, what it is told, its timeline');
  const act = clusterActions(world, run);
  group
    .command('events', { isDefault: true })
    .description('the timeline: who was silent, claimed, where its guests went')
    .option('--limit <count>', 'the newest so many', '40')
    .option('-f, --follow', 'go on as more happens, until Ctrl-C')
    .action(act((session, _args, options) => showEvents(session, options as EventOptions)));
  addManagedGuestCommands(group, act);
  addManagedNodesCommand(group, act);
  addOrderCommands(group, act);
  addRuleCommands(group, act);
  addSettingsCommand(group, act);
}

async function showEvents(session: Session, options: EventOptions): Promise<void> {
  const limit = parseWholeNumber(options.limit, 'limit', 1, 100_000);
  const { printer, world } = session;
  const events = (await listRecords<HaEvent>(session, prefixes.haEvents)).slice(-limit);
  printer.show(events, () => formatEvents(events, null, printer));
  let last = events.at(-1) ?? null;
  while (options.follow === true) {
    await world.sleep(limits.cliPollMs);
    const seen = last;
    const fresh = (await listRecords<HaEvent>(session, prefixes.haEvents)).filter((event) => seen === null || event.id > seen.id);
    if (fresh.length === 0) continue;
    printer.show(fresh, () => tableWithoutHead(formatEvents(fresh, seen, printer)));
    last = fresh.at(-1) ?? last;
  }
}

/** `previous`: the event before the first of `events`, for the time since. */
function formatEvents(events: HaEvent[], previous: HaEvent | null, printer: Session['printer']): string {
  const rows = events.map((event, index): Cell[] => {
    const before = events[index - 1] ?? previous;
    return [
      formatTimeMs(event.atMs),
      before === null ? '' : `+${formatDuration(event.atMs - before.atMs)}`,
      event.kind,
      event.node,
      event.vmid === null ? '' : String(event.vmid),
      event.proof === null ? event.text : `${event.text} (${formatProof(event.proof)})`,
    ];
  });
  const columns = [
    { title: 'TIME' },
    { title: 'SINCE', align: 'right' as const },
    { title: 'WHAT' },
    { title: 'NODE' },
    { title: 'GUEST', align: 'right' as const },
    { title: 'TEXT', wraps: true },
  ];
  return printer.table(columns, rows, 'nothing has happened yet');
}
