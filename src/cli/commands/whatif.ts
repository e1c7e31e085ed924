import type { Command } from 'commander';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { ClusterFacts, GuestRecordFacts } from '#core/ha/cluster-round/facts.ts';
import { openMemory } from '#core/ha/cluster-round/memory-record.ts';
import { toManagerFacts } from '#core/ha/cluster-round/to-manager.ts';
import { forecastLoss, type LossForecast } from '#core/ha/manager/loss-forecast.ts';
import { formatDuration } from '#core/text/duration.ts';
import type { Cell } from '#core/text/table.ts';
import { expectDowntime, formatDowntime, type Downtime } from '#cli/downtime.ts';
import { readLiveFacts } from '#cli/live-facts.ts';
import { listNodes } from '#cli/records.ts';
import { clusterActions, exitCodes, type Printer, type Session } from '#cli/session.ts';
import type { CliWorld } from '#cli/world.ts';

/** Adds `whatif` to the program. */
export function addWhatIfCommand(program: Command, world: CliWorld, run: (code: number) => void): void {
  program
    .command('whatif')
    .description('which guest would run where if nodes were lost now, with data how old, after how long; changes nothing')
    .requiredOption('--down <node,node>', 'the nodes that are lost, all at once')
    .addHelpText(
      'after',
      `\nExit code: ${exitCodes.ok} every started guest would run, ${exitCodes.down} some would not, or the store would have no quorum.`,
    )
    .action(clusterActions(world, run)((session, _args, { down }) => showForecast(session, String(down))));
}

type GuestForecast = {
  vmid: number;
  name: string;
  from: string;
  /** What its home says of it now; null: nothing. */
  now: string | null;
  /** null: it would run nowhere. */
  to: string | null;
  because: string;
  /** null: it would start from its own disks, or nowhere. */
  dataAgeMs: number | null;
  /** null: its node is not lost, or it would run nowhere. */
  downtime: Downtime | null;
};

type Staying = { vmid: number; name: string; now: string | null };
type Quorum = { members: number; left: number; needed: number; holds: boolean };
type Forecast = { down: string[]; fits: boolean; quorum: Quorum; guests: GuestForecast[]; stays: Staying[] };

async function showForecast(session: Session, text: string): Promise<number> {
  const down = parseDown(text, await listNodes(session));
  const [facts, quorum] = await Promise.all([readLiveFacts(session), expectQuorum(session, down)]);
  const memory = openMemory(facts.memory?.value ?? null, facts.guests);
  const loss = forecastLoss(toManagerFacts(facts, session.world.nowMs()), memory, down);
  const guests = describeGuests(facts, loss, down);
  const fits = quorum.holds && loss.unplaced.length === 0;
  const forecast: Forecast = { down, fits, quorum, guests, stays: describeStaying(facts, loss) };
  session.printer.show(forecast, () => formatForecast(forecast, session.printer));
  return fits ? exitCodes.ok : exitCodes.down;
}

function parseDown(text: string, known: string[]): string[] {
  const down = text.split(',').map((part) => part.trim());
  const unknown = down.find((node) => !known.includes(node));
  if (unknown !== undefined) {
    throw new AppError('missing', `down: there is no node ${unknown}; known: ${known.length === 0 ? 'none' : known.join(', ')}`);
  }
  return [...new Set(down)];
}

/** Members of the store bear the names of the nodes that they run on; a witness has a name of its own. */
async function expectQuorum({ store, world }: Session, down: readonly string[]): Promise<Quorum> {
  const members = await store.listMembers({ deadlineMs: limits.etcdCallMs, signal: world.signal });
  const left = members.filter((member) => member.healthy && !down.includes(member.name)).length;
  const needed = Math.floor(members.length / 2) + 1;
  return { members: members.length, left, needed, holds: left >= needed };
}

function describeGuests(facts: ClusterFacts, loss: LossForecast, down: readonly string[]): GuestForecast[] {
  const known = new Map(facts.guests.map((guest) => [String(guest.record.vmid), guest]));
  const describe = (id: string, from: string, rest: Omit<GuestForecast, 'vmid' | 'name' | 'from' | 'now'>): GuestForecast[] => {
    const guest = known.get(id);
    if (guest === undefined) return [];
    return [{ vmid: guest.record.vmid, name: guest.record.name, from, now: stateNow(guest), ...rest }];
  };
  const placed = loss.placed.flatMap(({ guest, from, to, because, dataAgeMs }) => {
    const own = known.get(guest);
    const downtime = own === undefined || !down.includes(from) ? null : expectDowntime(facts, own, from, down);
    return describe(guest, from, { to, because, dataAgeMs, downtime });
  });
  const unplaced = loss.unplaced.flatMap(({ guest, from, because }) =>
    describe(guest, from, { to: null, because, dataAgeMs: null, downtime: null }),
  );
  return [...placed, ...unplaced].sort((a, b) => a.vmid - b.vmid);
}

function describeStaying({ guests }: ClusterFacts, { stays }: LossForecast): Staying[] {
  const ids = new Set(stays);
  return guests.flatMap((guest) => {
    const { vmid, name } = guest.record;
    return ids.has(String(vmid)) ? [{ vmid, name, now: stateNow(guest) }] : [];
  });
}

function stateNow({ record, status }: GuestRecordFacts): string | null {
  return status !== null && status.node === record.home && status.generation === record.generation ? status.state : null;
}

function formatForecast(forecast: Forecast, printer: Printer): string {
  const { down, guests, stays } = forecast;
  const rows = guests.map((guest): Cell[] => [
    String(guest.vmid),
    guest.name,
    guest.now === 'running' ? guest.from : `${guest.from} (${guest.now ?? 'not running'})`,
    guest.to ?? { text: 'nowhere', tone: 'bad' },
    guest.dataAgeMs === null ? '-' : formatDuration(guest.dataAgeMs),
    guest.downtime === null ? '-' : formatDowntime(guest.downtime),
    guest.because,
  ]);
  const columns = [
    { title: 'GUEST', align: 'right' as const },
    { title: 'NAME' },
    { title: 'RUNS NOW' },
    { title: 'WOULD RUN ON' },
    { title: 'DATA AGE', align: 'right' as const },
    { title: 'DOWN FOR', align: 'right' as const },
    { title: 'BECAUSE', wraps: true },
  ];
  const table = printer.table(columns, rows, `no started guest would have to leave ${down.join(', ')}`);
  const lines = [...explainDowntime(guests), stayLine(stays), concludeForecast(forecast, printer)];
  return `${table}\n${lines.map((line) => `${line}\n`).join('')}`;
}

function explainDowntime(guests: GuestForecast[]): string[] {
  const known = guests.flatMap(({ downtime }) => (downtime === null ? [] : [downtime]));
  if (known.length === 0) return [];
  const lines = ['Down for: until QEMU runs there; the boot of the guest itself comes on top.'];
  if (known.some(({ powerOffMs }) => powerOffMs !== null))
    lines.push('The shorter time holds where the management controller still answers and says off.');
  if (known.some(({ startMs }) => startMs === null)) lines.push('How long a start takes is not known of every guest.');
  return lines;
}

function stayLine(stays: readonly Staying[]): string {
  if (stays.length === 0) return 'No other guest is wanted started.';
  const idle = stays.filter(({ now }) => now !== 'running').map(({ vmid, name }) => `${vmid} ${name}`);
  const but = idle.length === 0 ? '' : `; not running now, and not then: ${idle.join(', ')}`;
  if (stays.length === 1) return `Guest ${stays[0]?.vmid} ${stays[0]?.name} stays where it is${but}.`;
  return `${stays.length} other guests stay where they are${but}.`;
}

function concludeForecast({ guests, quorum, fits, down }: Forecast, printer: Printer): string {
  if (!quorum.holds) {
    const text = `Without ${down.join(', ')} the store has no quorum (${quorum.left} of ${quorum.members} members left, ${quorum.needed} needed): nothing starts anywhere and all guests stand still until it is back. Above stands what comes then.`;
    return printer.paint(text, 'bad');
  }
  if (fits) return printer.paint(`Without ${down.join(', ')} every guest would find a place.`, 'good');
  const lost = guests.filter(({ to }) => to === null).map(({ vmid, name }) => `${vmid} ${name}`);
  return printer.paint(`Without ${down.join(', ')} this would run nowhere: ${lost.join(', ')}.`, 'bad');
}
