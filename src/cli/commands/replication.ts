import type { Command } from 'commander';
import { resolve } from 'node:path';
import { AppError } from '#base/error.ts';
import type { GuestView, TailView } from '#core/ha/cluster-view.ts';
import type { KeptDisksRecord } from '#core/guest-backup/records.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import { findTailExpiry } from '#core/replica/tail-expiry.ts';
import { defaultReplicationJob, type ReplicationJob } from '#core/replica/records.ts';
import { formatDuration } from '#core/text/duration.ts';
import { formatSize } from '#core/text/size.ts';
import { longTimeout, parseTimeout } from '#cli/command-options.ts';
import { readView } from '#cli/commands/status.ts';
import { changeRecord, findGuest, findNode, listRecords } from '#cli/records.ts';
import { applyReplicationOptions, type ReplicationOptions } from '#cli/replication-options.ts';
import { performRequest } from '#cli/request-run.ts';
import { clusterActions, type Session } from '#cli/session.ts';
import { formatCopies, formatTails } from '#cli/status-text.ts';
import type { CliWorld } from '#cli/world.ts';

type TailOptions = { node?: string; yes?: boolean; timeout: string };

/** Adds the group `replication` to the program. */
export function addReplicationCommands(program: Command, world: CliWorld, run: (code: number) => void): void {
  const group = program
    .command('replication')
    .description('copies of the guests: their age, their schedule, what was left behind');
  const act = clusterActions(world, run);
  group.command('list').description('every copy with the age of its data').action(act(listCopies));
  group
    .command('set <guest>')
    .description('how often and how fast a guest is copied, how many points are kept')
    .option('--interval <duration>', 'wanted time between two points, 1s and up')
    .option('--rate <size>', 'limit per second to each target, e.g. 10M; none: no limit')
    .option('--keep <recent=N,minutes=N,hours=N>', 'points kept on the targets')
    .option('--freeze', "the guest's own agent brings its file systems to rest for each point")
    .option('--no-freeze', 'points are as a power cut would leave the guest')
    .option('--keep-tails <duration>', 'how long left-behind tails are kept: 7d and up, or forever')
    .option('--on', 'replicate')
    .option('--off', 'do not replicate')
    .action(act((session, [guest], options) => setJob(session, guest ?? '', options as ReplicationOptions)));
  group
    .command('sync <guest>')
    .description('take a point now and send it')
    .option('--to <node>', 'to this node only')
    .option('--timeout <duration>', 'how long to wait', longTimeout)
    .action(act((session, [guest], options) => syncNow(session, guest ?? '', options as { to?: string; timeout: string })));
  group
    .command('tails [guest]')
    .description('writes of a former home that reached no copy')
    .action(act((session, [guest]) => listTails(session, guest)));
  addTailCommand(group, 'release <guest> <name>', 'remove a tail for good')
    .option('--yes', 'really')
    .action(act((session, [guest, name], options) => releaseTail(session, guest ?? '', name ?? '', options as TailOptions)));
  addTailCommand(
    group,
    'export <guest> <name> <directory>',
    "write a tail's whole disks as raw files into a directory of its node",
  ).action(
    act((session, [guest, name, directory], options) =>
      exportTail(session, { guest: guest ?? '', name: name ?? '', directory: directory ?? '' }, options as TailOptions),
    ),
  );
}

function addTailCommand(group: Command, usage: string, description: string): Command {
  return group
    .command(usage)
    .description(description)
    .option('--node <node>', 'which one is meant, when several nodes hold a tail of that name')
    .option('--timeout <duration>', 'how long to wait', longTimeout);
}

async function listCopies(session: Session): Promise<void> {
  const { guests } = await readView(session);
  const list = guests.map(({ vmid, name, home, generation, replicated, intervalMs, copies }): Partial<GuestView> => {
    return { vmid, name, home, generation, replicated, intervalMs, copies };
  });
  session.printer.show(list, () => (guests.length === 0 ? 'there is no guest yet\n' : formatCopies(guests, session.printer)));
}

async function setJob(session: Session, numberOrName: string, options: ReplicationOptions): Promise<void> {
  // Refuses bad options before anything is read or written.
  applyReplicationOptions({ vmid: 0, ...defaultReplicationJob }, options);
  const guest = await findGuest(session, numberOrName);
  const what = `replication of guest ${guest.vmid}`;
  const job = await changeRecord<ReplicationJob>(session, keys.replicationJob(guest.vmid), what, (current) =>
    applyReplicationOptions(current ?? { vmid: guest.vmid, ...defaultReplicationJob }, options),
  );
  session.printer.show(job, () => `guest ${guest.vmid} ${guest.name}: ${job === null ? '' : formatJob(job)}\n`);
}

function formatJob(job: ReplicationJob): string {
  if (!job.enabled) return 'not replicated';
  const rate = job.rateBytesPerSecond === null ? 'as fast as it goes' : `at most ${formatSize(job.rateBytesPerSecond)}/s`;
  const keep = `keeps ${job.keep.recent} newest, ${job.keep.minutes} minutes, ${job.keep.hours} hours`;
  const rest = job.freeze === true ? ', at rest by its agent' : '';
  const tails = job.keepTailsDays === undefined || job.keepTailsDays === null ? '' : `, tails for ${job.keepTailsDays} days`;
  return `every ${formatDuration(job.intervalMs)}, ${rate}, ${keep}${rest}${tails}`;
}

async function syncNow(session: Session, numberOrName: string, options: { to?: string; timeout: string }): Promise<void> {
  const deadlineMs = parseTimeout(options.timeout);
  const guest = await findGuest(session, numberOrName);
  const target = options.to === undefined ? null : await findNode(session, options.to, 'to');
  if (target === guest.home)
    throw new AppError('invalid', `to: ${target} is the home of guest ${guest.vmid}; a copy goes to another node`);
  const order = { kind: 'replication-sync' as const, vmid: guest.vmid, target };
  const result = await performRequest(session, guest.home, order, deadlineMs);
  const text = result.length === 0 ? [`guest ${guest.vmid} ${guest.name} is replicated`] : result;
  session.printer.show({ vmid: guest.vmid, target, result }, () => text.map((line) => `${line}\n`).join(''));
}

async function listTails(session: Session, numberOrName: string | undefined): Promise<void> {
  const vmid = numberOrName === undefined ? null : (await findGuest(session, numberOrName)).vmid;
  const tails = await readTails(session);
  const jobs = await listRecords<ReplicationJob>(session, prefixes.replication);
  const shown = tails
    .filter((tail) => vmid === null || tail.vmid === vmid)
    .map((tail) => ({ ...tail, expiresAtMs: findTailExpiry(tail, jobs.find((job) => job.vmid === tail.vmid)?.keepTailsDays) }));
  session.printer.show(shown, () => formatTails(shown, session.printer, { nowMs: session.world.nowMs() }));
}

async function releaseTail(session: Session, numberOrName: string, name: string, options: TailOptions): Promise<void> {
  const deadlineMs = parseTimeout(options.timeout);
  const tail = await findTail(session, numberOrName, name, options.node);
  if (options.yes !== true) {
    const size = tail.sizeBytes === null ? 'its writes' : formatSize(tail.sizeBytes);
    throw new AppError(
      'invalid',
      `yes: releasing ${name} of guest ${tail.vmid} on ${tail.node} destroys ${size}; add --yes if you mean it`,
    );
  }
  await performRequest(session, tail.node, { kind: 'tail-release', vmid: tail.vmid, name }, deadlineMs);
  session.printer.show(
    { vmid: tail.vmid, node: tail.node, name },
    () => `${name} of guest ${tail.vmid} on ${tail.node} is released\n`,
  );
}

async function exportTail(
  session: Session,
  wanted: { guest: string; name: string; directory: string },
  options: TailOptions,
): Promise<void> {
  const deadlineMs = parseTimeout(options.timeout);
  const tail = await findTail(session, wanted.guest, wanted.name, options.node);
  const order = { kind: 'tail-export' as const, vmid: tail.vmid, name: wanted.name, directory: resolve(wanted.directory) };
  const files = await performRequest(session, tail.node, order, deadlineMs);
  session.printer.show({ vmid: tail.vmid, node: tail.node, name: wanted.name, files }, () =>
    [`${wanted.name} of guest ${tail.vmid} is written on ${tail.node}:`, ...files].map((line) => `${line}\n`).join(''),
  );
}

/** Of replicas, and what primary copies keep; a copy that has become a replica since tells them itself. */
async function readTails(session: Session): Promise<TailView[]> {
  const { tails } = await readView(session);
  const kept = await listRecords<KeptDisksRecord>(session, prefixes.keptDisks);
  const isTold = ({ vmid, node, name }: TailView): boolean =>
    tails.some((tail) => tail.vmid === vmid && tail.node === node && tail.name === name);
  const own = kept.flatMap((copy) => copy.tails.map((tail) => ({ ...tail, vmid: copy.vmid, node: copy.node })));
  return [...tails, ...own.filter((tail) => !isTold(tail))];
}

async function findTail(session: Session, numberOrName: string, name: string, node: string | undefined): Promise<TailView> {
  const guest = await findGuest(session, numberOrName);
  const tails = await readTails(session);
  const ofGuest = tails.filter((tail) => tail.vmid === guest.vmid);
  const found = ofGuest.filter((tail) => tail.name === name && (node === undefined || tail.node === node));
  const tail = found[0];
  if (tail === undefined) {
    const known = ofGuest.map((entry) => `${entry.name} on ${entry.node}`).join(', ');
    const where = node === undefined ? '' : ` on ${node}`;
    throw new AppError(
      'missing',
      `name: guest ${guest.vmid} has no tail ${name}${where}; known: ${known === '' ? 'none' : known}`,
    );
  }
  if (found.length > 1) {
    throw new AppError(
      'conflict',
      `node: ${name} of guest ${guest.vmid} is on ${found.map((entry) => entry.node).join(' and ')}; say which with --node`,
    );
  }
  return tail;
}
