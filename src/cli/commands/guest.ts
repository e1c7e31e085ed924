import type { Command } from 'commander';
import { resolve } from 'node:path';
import { AppError } from '#base/error.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { prefixes } from '#core/ha/keys.ts';
import { formatSize } from '#core/text/size.ts';
import { refuseUnlessItFits } from '#cli/admission.ts';
import { collect, forceStart, longTimeout, parseTimeout, shortTimeout } from '#cli/command-options.ts';
import { followSerial } from '#cli/guest-serial.ts';
import { parseGuestOptions, type GuestOptions, type WantedGuest } from '#cli/guest-options.ts';
import { setWanted } from '#cli/guest-wanted.ts';
import { findGuest, findNode, listRecords } from '#cli/records.ts';
import { performRequest } from '#cli/request-run.ts';
import { clusterActions, type Session } from '#cli/session.ts';
import { formatCopies, formatGuests, formatTails } from '#cli/status-text.ts';
import { readView } from '#cli/commands/status.ts';
import type { CliWorld } from '#cli/world.ts';

/** Folders of which each node of a lab has its own; all others are this machine's. */
const nodeOwnFolders = ['/var/lib/holdfast/', '/run/holdfast/', '/etc/holdfast/', '/dev/', '/proc/'];

type CreateOptions = GuestOptions & { node?: string; start?: boolean; force?: boolean; timeout: string };

/** Adds the group `guest` to the program. */
export function addGuestCommands(program: Command, world: CliWorld, run: (code: number) => void): void {
  const group = program.command('guest').description('virtual machines: list, make, start, stop, remove');
  const act = clusterActions(world, run);
  group.command('list').description('all guests and what they do').action(act(listGuests));
  group
    .command('show <guest>')
    .description('one guest: configuration, order, copies')
    .action(act((session, [guest]) => showGuest(session, guest ?? '')));
  addCreate(group).action(act((session, _args, options) => createGuest(session, options as CreateOptions)));
  for (const [verb, want] of [
    ['start', 'started'],
    ['stop', 'stopped'],
  ] as const) {
    const command = group
      .command(`${verb} <guest>`)
      .description(`want the guest ${want} and wait until it is`)
      .option('--no-wait', 'return as soon as the wish is recorded')
      .option('--timeout <duration>', 'how long to wait', shortTimeout);
    if (want === 'started') command.option('--force', forceStart);
    command.action(
      act((session, [guest], { wait, timeout, force }) =>
        setWanted(session, guest ?? '', want, {
          wait: wait !== false,
          deadlineMs: parseTimeout(String(timeout)),
          force: force === true,
        }),
      ),
    );
  }
  group
    .command('delete <guest>')
    .description('remove the guest and its disks on every node, for good')
    .option('--yes', 'really')
    .option('--timeout <duration>', 'how long to wait', longTimeout)
    .action(act((session, [guest], options) => deleteGuest(session, guest ?? '', options as { yes?: boolean; timeout: string })));
  group
    .command('serial <guest>')
    .description('what the guest wrote to its serial port')
    .option('-f, --follow', 'go on as it writes more, until Ctrl-C')
    .action(act((session, [guest], { follow }) => followSerial(session, guest ?? '', follow === true)));
}

function addCreate(group: Command): Command {
  return group
    .command('create')
    .description('make a guest with its disks')
    .requiredOption('--name <name>', 'what people call it')
    .option('--vmid <number>', 'its number; the first free one from 100 if not given')
    .option('--cores <count>', 'virtual processors', '1')
    .option('--memory <size>', 'e.g. 512M, 4G', '512M')
    .option('--disk <disk0=SIZE[,import=FILE]>', 'a disk, empty or with the content of a raw image; several allowed', collect, [])
    .option('--nic <bridge=BRIDGE[,mac=MAC]>', 'a network interface; several allowed', collect, [])
    .option('--kernel <file>', "boot this kernel from the nodes' assets folder instead of disk0")
    .option('--initrd <file>', 'its initial RAM disk, from the same folder')
    .option('--append <text>', "the kernel's command line")
    .option('--node <node>', 'its first home; on a server: this one if not given')
    .option('--start', 'want it started at once')
    .option('--force', forceStart)
    .option('--timeout <duration>', 'how long to wait', longTimeout);
}

async function listGuests(session: Session): Promise<void> {
  const { guests } = await readView(session);
  session.printer.show(guests, () => formatGuests(guests, session.printer));
}

async function showGuest(session: Session, numberOrName: string): Promise<void> {
  const record = await findGuest(session, numberOrName);
  const view = await readView(session);
  const guest = view.guests.find((entry) => entry.vmid === record.vmid);
  if (guest === undefined) throw new AppError('missing', `showing guest ${record.vmid}: it was removed meanwhile`);
  const tails = view.tails.filter((tail) => tail.vmid === record.vmid);
  session.printer.show({ ...record, state: guest, tails }, () => {
    const parts = [formatGuests([guest], session.printer), formatConfig(record), formatCopies([guest], session.printer)];
    return [...parts, ...(tails.length === 0 ? [] : [formatTails(tails, session.printer)])].join('\n');
  });
}

function formatConfig({ config, order }: GuestRecord): string {
  const disks = config.disks.map((disk) => `${disk.name} ${formatSize(disk.sizeBytes)}`);
  const nics = config.nics.map((nic) => `${nic.mac} on ${nic.bridge}`);
  const boot =
    config.boot === null ? 'disk0, by firmware' : [config.boot.kernel, config.boot.initrd ?? '', config.boot.append].join(' ');
  const lines = [
    ['hardware', `${config.cores} ${config.cores === 1 ? 'core' : 'cores'}, ${config.memoryMb} MiB`],
    ['disks', disks.length === 0 ? 'none' : disks.join(', ')],
    ['network', nics.length === 0 ? 'none' : nics.join(', ')],
    ['boots', boot.trim()],
    [
      'order',
      order === null ? 'none yet' : `${order.kind} under epoch ${order.nodeEpoch}, by manager epoch ${order.managerEpoch}`,
    ],
  ];
  return lines.map(([title, text]) => `${(title ?? '').padEnd(10)}${text}\n`).join('');
}

async function createGuest(session: Session, options: CreateOptions): Promise<void> {
  const existing = await listRecords<GuestRecord>(session, prefixes.guests);
  const guest = parseGuestOptions(options, existing, session.world.chance);
  const node = await findNode(session, chooseHome(session, options.node));
  const deadlineMs = parseTimeout(options.timeout);
  const imports = await locateImports(session, guest, node);
  const want = options.start === true ? 'started' : 'stopped';
  if (want === 'started' && options.force !== true) await refuseUnlessItFits(session, { ...guest, home: node });
  await performRequest(session, node, { kind: 'guest-create', ...guest, imports, want }, deadlineMs);
  const next = want === 'started' ? 'it is wanted started' : `start it: holdfast guest start ${guest.vmid}`;
  session.printer.show(
    { vmid: guest.vmid, name: guest.name, node },
    () => `guest ${guest.vmid} ${guest.name} is made on ${node}; ${next}\n`,
  );
}

function chooseHome(session: Session, node: string | undefined): string {
  if (node !== undefined) return node;
  if (session.place.kind === 'server') return session.place.node;
  throw new AppError('invalid', 'node: say on which node of the lab the guest is to be made, e.g. --node n1');
}

/** The images to import must lie where the agent of `node` can read them and must fit their disks. */
async function locateImports(session: Session, guest: WantedGuest, node: string): Promise<Record<string, string>> {
  const { place, world } = session;
  if (Object.keys(guest.imports).length > 0 && place.kind === 'server' && place.node !== node) {
    throw new AppError(
      'invalid',
      `disk: an image is imported on the guest's home; run this on ${node}, or use --node ${place.node}`,
    );
  }
  const located: Record<string, string> = {};
  for (const [disk, file] of Object.entries(guest.imports)) {
    const path = resolve(file);
    const own = place.kind === 'lab' ? nodeOwnFolders.find((folder) => path.startsWith(folder)) : undefined;
    if (own !== undefined) {
      throw new AppError('invalid', `${disk}: a lab's node has its own ${own} and does not see ${path}; put the image elsewhere`);
    }
    const sizeBytes = await world.fileSizeBytes(path);
    if (sizeBytes === null) throw new AppError('missing', `${disk}: there is no file ${path} to import`);
    const room = guest.config.disks.find((entry) => entry.name === disk)?.sizeBytes ?? 0;
    if (sizeBytes > room) {
      throw new AppError('invalid', `${disk}: ${path} has ${formatSize(sizeBytes)}, more than the disk's ${formatSize(room)}`);
    }
    located[disk] = path;
  }
  return located;
}

async function deleteGuest(session: Session, numberOrName: string, options: { yes?: boolean; timeout: string }): Promise<void> {
  const guest = await findGuest(session, numberOrName);
  const deadlineMs = parseTimeout(options.timeout);
  if (options.yes !== true) {
    throw new AppError(
      'invalid',
      `yes: deleting guest ${guest.vmid} ${guest.name} removes its disks on every node; add --yes if you mean it`,
    );
  }
  const view = await readView(session);
  const found = view.guests.find((entry) => entry.vmid === guest.vmid);
  if (found?.want === 'started' || found?.state === 'running' || found?.state === 'starting' || found?.state === 'frozen') {
    const stop = `holdfast guest stop ${guest.vmid}`;
    throw new AppError(
      'conflict',
      `deleting guest ${guest.vmid} ${guest.name}: it is wanted ${found.want} and ${found.state}; stop it first (${stop})`,
    );
  }
  await performRequest(session, guest.home, { kind: 'guest-delete', vmid: guest.vmid }, deadlineMs);
  session.printer.show({ vmid: guest.vmid }, () => `guest ${guest.vmid} ${guest.name} is removed\n`);
}
