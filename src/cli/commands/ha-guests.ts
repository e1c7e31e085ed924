import type { Command } from 'commander';
import { AppError } from '#base/error.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { GuestView } from '#core/ha/cluster-view.ts';
import { resourceWithDefaults, type FullHaResource } from '#core/ha/ha-settings.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import { compileRules } from '#core/ha/manager/compiled-rules.ts';
import type { HaResource, HaRule, HaStatus } from '#core/ha/records.ts';
import { formatDuration } from '#core/text/duration.ts';
import { readView } from '#cli/commands/status.ts';
import { forceStart } from '#cli/command-options.ts';
import { formatCommand } from '#cli/command-run.ts';
import { refuseNewStart } from '#cli/guest-wanted.ts';
import { formatManagedGuests, formatNext } from '#cli/managed-text.ts';
import { changeRecord, chooseGuest, findGuest, listNodes, listRecords, readRecord } from '#cli/records.ts';
import { parseResourceOptions, wantedStates, type ResourceOptions } from '#cli/resource-options.ts';
import { formatRule } from '#cli/rule-options.ts';
import type { Act, Session } from '#cli/session.ts';

/** Adds what is wanted of guests and what the manager makes of it: `ha list`, `ha show`, `ha set`. */
export function addManagedGuestCommands(group: Command, act: Act): void {
  group.command('list').description('what is wanted of each guest, its state, and what happens next').action(act(listManaged));
  group
    .command('show <guest>')
    .description("one guest's state, order, policies and rules")
    .action(act((session, [guest]) => showManaged(session, guest ?? '')));
  group
    .command('set <guest>')
    .description('change what is wanted of a guest')
    .option('--want <state>', wantedStates.join(', '))
    .option('--max-data-age <duration>', 'never recover onto a copy older than this; none: any verified copy will do')
    .option('--retries <count>', 'starts tried again on the same node after one failed')
    .option('--relocations <count>', 'starts tried on other nodes after that')
    .option('--failback <on|off>', 'a better-ranked node that comes back pulls the guest back')
    .option(
      '--wait-for-better-copy <duration>',
      'a recovery waits so long for a fresher copy on a node that is away; none: not at all',
    )
    .option('--start-order <number>', 'guests of a lower number are recovered first')
    .option('--starts-after <guest,guest>', 'guests that this one waits for when it is started or recovered; none: no such guest')
    .option('--force', `with --want started: ${forceStart}`)
    .action(
      act((session, [guest], options) => setResource(session, guest ?? '', options as ResourceOptions & { force?: boolean })),
    );
}

async function listManaged(session: Session): Promise<void> {
  const { guests } = await readView(session);
  const list = guests.map(({ vmid, name, home, want, state, because, maxDataAgeMs, ha }) => ({
    vmid,
    name,
    home,
    want,
    state,
    because,
    maxDataAgeMs,
    manager: ha,
  }));
  session.printer.show(list, () => formatManagedGuests(guests, session.printer));
}

async function showManaged(session: Session, numberOrName: string): Promise<void> {
  const record = await findGuest(session, numberOrName);
  const { vmid } = record;
  const [view, resource, status, rules, nodes] = await Promise.all([
    readView(session),
    readRecord<HaResource>(session, keys.haResource(vmid)),
    readRecord<HaStatus>(session, keys.haStatus(vmid)),
    listRecords<HaRule>(session, prefixes.haRules),
    listNodes(session),
  ]);
  const guest = view.guests.find((entry) => entry.vmid === vmid);
  if (guest === undefined) throw new AppError('missing', `showing guest ${vmid}: it was removed meanwhile`);
  const policies = resourceWithDefaults(vmid, resource);
  const own = rules.filter((rule) => rule.guests.includes(String(vmid)));
  const dropped = compileRules(rules, nodes).dropped.filter((entry) => own.some((rule) => rule.id === entry.rule));
  const { order, givenUp, declined } = record;
  const facts = { vmid, name: record.name, state: guest.state, because: guest.because, manager: guest.ha, policies };
  session.printer.show({ ...facts, order, givenUp, declined, status, rules: own, dropped }, () =>
    formatLines([
      ['guest', `${vmid} ${record.name}, wanted ${policies.want}, at home on ${record.home} (generation ${record.generation})`],
      ['seen', `${guest.state}: ${guest.because}`],
      ...formatManaged(guest),
      ...formatRecord(record, status),
      ...formatPolicies(policies),
      ...own.map((rule): Line => ['rule', formatRule(rule)]),
      ...dropped.map((entry): Line => ['', `rule ${entry.rule} cannot hold: ${entry.because}`]),
    ]),
  );
}

type Line = [title: string, text: string];

function formatLines(lines: Line[]): string {
  return lines.map(([title, text]) => `${title.padEnd(12)}${text}\n`).join('');
}

function formatManaged({ ha }: GuestView): Line[] {
  if (ha === null) return [['manager', 'does not manage it (yet)']];
  const lines: Line[] = [
    ['manager', `${ha.state.kind} on ${ha.node} for ${formatDuration(ha.forMs)}: ${ha.because}`],
    ['next', formatNext(ha)],
  ];
  if (ha.command !== null) lines.push(['queued', formatCommand(ha.command)]);
  if (ha.failedNodes.length > 0) lines.push(['failed on', ha.failedNodes.join(', ')]);
  if (ha.avoids !== null)
    lines.push(['keeps from', `${ha.avoids.nodes.join(', ')}, where its start failed, for ${formatDuration(ha.avoids.leftMs)}`]);
  if (ha.returnTo !== null) lines.push(['returns to', `${ha.returnTo} when it is undrained`]);
  return lines;
}

function formatRecord({ order, givenUp, declined }: GuestRecord, status: HaStatus | null): Line[] {
  const lines: Line[] = [];
  if (order === null) lines.push(['order', 'none']);
  else {
    const to = order.to === undefined ? '' : ` to ${order.to}`;
    const end = status?.end?.orderId === order.id ? `, ended ${status.end.result}` : '';
    lines.push(['order', `${order.kind}${to} (number ${order.id}, node epoch ${order.nodeEpoch})${end}`]);
  }
  if (givenUp !== undefined) lines.push(['given up', `by ${givenUp.node}: ${givenUp.because}`]);
  for (const copy of declined ?? []) lines.push(['declined', `the copy on ${copy.node}: ${copy.because}`]);
  return lines;
}

function formatPolicies(policies: FullHaResource): Line[] {
  const { maxDataAgeMs, betterCopyWaitMs, startsAfter, localRetries, otherNodeTries } = policies;
  const age = maxDataAgeMs === null ? 'of any age' : `at most ${formatDuration(maxDataAgeMs)} old`;
  const wait = betterCopyWaitMs === 0 ? '' : `; waits ${formatDuration(betterCopyWaitMs)} for a better one`;
  const after = startsAfter.length === 0 ? '' : `, after ${startsAfter.join(', ')}`;
  return [
    ['recovery', `onto verified copies ${age}${wait}`],
    ['starts', `order ${policies.startOrder}${after}`],
    ['retries', `${localRetries} on the same node, ${otherNodeTries} on other nodes`],
    ['failback', policies.failback ? 'on' : 'off'],
  ];
}

async function setResource(
  session: Session,
  numberOrName: string,
  { force, ...options }: ResourceOptions & { force?: boolean },
): Promise<void> {
  const guests = await listRecords<GuestRecord>(session, prefixes.guests);
  const guest = chooseGuest(guests, numberOrName, 'guest');
  const resources = await listRecords<HaResource>(session, prefixes.haResources);
  const changes = parseResourceOptions(options, guest, guests, resources);
  if (changes.want === 'started' && force !== true) await refuseNewStart(session, guest);
  const resource = await changeRecord<HaResource>(
    session,
    keys.haResource(guest.vmid),
    `what is wanted of guest ${guest.vmid}`,
    (current) => ({ ...(current ?? { vmid: guest.vmid, want: 'ignored', maxDataAgeMs: null }), ...changes }),
  );
  const policies = resourceWithDefaults(guest.vmid, resource);
  session.printer.show(resource, () => {
    const head: Line = ['guest', `${guest.vmid} ${guest.name} is wanted ${policies.want}`];
    return formatLines([head, ...formatPolicies(policies)]);
  });
}
