import type { Command } from 'commander';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaEvent, HaResource, WantedState } from '#core/ha/records.ts';
import { formatProof } from '#core/ha/verdict.ts';
import { formatDuration, parseDuration } from '#core/text/duration.ts';
import { parseChoice, parseWholeNumber } from '#core/text/fields.ts';
import type { Cell } from '#core/text/table.ts';
import { readView } from '#cli/commands/status.ts';
import { changeRecord, findGuest, listRecords } from '#cli/records.ts';
import { clusterActions, tableWithoutHead, type Session } from '#cli/session.ts';
import { formatTimeMs } from '#cli/time.ts';
import type { CliWorld } from '#cli/world.ts';

const wantedStates: readonly WantedState[] = ['started', 'stopped', 'disabled', 'ignored'];

type SetOptions = { want?: string; maxDataAge?: string };
type EventOptions = { limit: string; follow?: boolean };

/** Adds the group `ha` to the program. Without a subcommand it shows the timeline. */
export function addHaCommands(program: Command, world: CliWorld, run: (code: number) => void): void {
  const group = program.command('ha').description('what is wanted of the guests, and the timeline of claims and recoveries');
  const act = clusterActions(world, run);
  group
    .command('events', { isDefault: true })
    .description('the timeline: who was silent, claimed, where its guests went')
    .option('--limit <count>', 'the newest so many', '40')
    .option('-f, --follow', 'go on as more happens, until Ctrl-C')
    .action(act((session, _args, options) => showEvents(session, options as EventOptions)));
  group.command('list').description('what is wanted of each guest').action(act(listWanted));
  group
    .command('set <guest>')
    .description('change what is wanted of a guest')
    .option('--want <state>', wantedStates.join(', '))
    .option('--max-data-age <duration>', 'never recover onto a copy older than this; none: any verified copy will do')
    .action(act((session, [guest], options) => setResource(session, guest ?? '', options as SetOptions)));
}

async function listWanted(session: Session): Promise<void> {
  const { guests } = await readView(session);
  const list = guests.map(({ vmid, name, home, want, state, because, maxDataAgeMs }) => ({
    vmid,
    name,
    home,
    want,
    state,
    because,
    maxDataAgeMs,
  }));
  const rows = list.map((guest): Cell[] => [
    String(guest.vmid),
    guest.name,
    guest.want,
    guest.maxDataAgeMs === null ? 'any' : formatDuration(guest.maxDataAgeMs),
    guest.home,
    guest.state,
    guest.because,
  ]);
  const columns = [
    { title: 'GUEST', align: 'right' as const },
    { title: 'NAME' },
    { title: 'WANTED' },
    { title: 'MAX DATA AGE' },
    { title: 'HOME' },
    { title: 'STATE' },
    { title: 'BECAUSE', wraps: true },
  ];
  session.printer.show(list, () => session.printer.table(columns, rows, 'there is no guest yet'));
}

async function setResource(session: Session, numberOrName: string, options: SetOptions): Promise<void> {
  if (options.want === undefined && options.maxDataAge === undefined) {
    throw new AppError('invalid', 'want: nothing to change; give --want or --max-data-age');
  }
  const want = options.want === undefined ? undefined : parseChoice(options.want, 'want', wantedStates);
  const maxDataAgeMs = parseMaxDataAge(options.maxDataAge);
  const guest = await findGuest(session, numberOrName);
  const resource = await changeRecord<HaResource>(
    session,
    keys.haResource(guest.vmid),
    `what is wanted of guest ${guest.vmid}`,
    (current) => ({
      vmid: guest.vmid,
      want: want ?? current?.want ?? 'ignored',
      maxDataAgeMs: maxDataAgeMs === undefined ? (current?.maxDataAgeMs ?? null) : maxDataAgeMs,
    }),
  );
  session.printer.show(resource, () => {
    const age = resource?.maxDataAgeMs ?? null;
    const limit = age === null ? 'of any age' : `at most ${formatDuration(age)} old`;
    return `guest ${guest.vmid} ${guest.name} is wanted ${resource?.want}, recovered onto verified copies ${limit}\n`;
  });
}

/** undefined: leave it as it is; null: no limit. */
function parseMaxDataAge(text: string | undefined): number | null | undefined {
  if (text === undefined) return undefined;
  return text === 'none' ? null : parseDuration(text, 'max-data-age');
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
