import type { Command } from 'commander';
import { openSnapshot } from '#adapters/backup-client/snapshot-source.ts';
import { nodeBytes } from '#adapters/bytes/node-bytes.ts';
import { AppError } from '#base/error.ts';
import { parseVmid } from '#base/ids.ts';
import { readSnapshotTime } from '#core/backup/names.ts';
import { diskOfArchive } from '#core/guest-backup/guest-blob.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { BackupTarget } from '#core/guest-backup/records.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { RequestRecord, RestoreOrder } from '#core/ha/requests.ts';
import { longTimeout, parseTimeout } from '#cli/command-options.ts';
import { addFileOptions, serveFiles, type FileOptions } from '#cli/image-files.ts';
import { setWanted } from '#cli/guest-wanted.ts';
import { changeRecord, findNode, listRecords, readRecord } from '#cli/records.ts';
import { performRequest } from '#cli/request-run.ts';
import type { Act, Session } from '#cli/session.ts';
import { clientWorkers } from '#programs/backup-client/workers.ts';
import { openGuestBackup } from '#programs/guest-backup/choose-snapshot.ts';
import { readTargetAccess } from '#programs/guest-backup/target-access.ts';

type RestoreOptions = {
  target?: string;
  over?: boolean;
  live?: boolean;
  node?: string;
  name?: string;
  bridge?: string;
  keepMacs?: boolean;
  start?: boolean;
  timeout: string;
};

export function addRestoreCommand(program: Command, act: Act): void {
  const restore = program
    .command('restore <guest> [vmid]')
    .description(
      "make guest VMID from another one's backup, or with --over bring a stopped guest back to one: GUEST is its number, or NUMBER/YYYY-MM-DDTHH:MM:SSZ for an older one",
    )
    .option('--target <id>', 'where from')
    .option('--over', 'replace the disks and the configuration of the stopped guest; what it had is kept as a tail')
    .option('--live', 'start the new guest at once, while its disks still stream in from the backup')
    .option('--node <node>', 'its home; on a server: this one if not given')
    .option('--name <name>', 'another name')
    .option('--bridge <bridge>', 'put all its network cards there')
    .option('--keep-macs', 'keep the hardware addresses (only when the old guest is gone)')
    .option('--start', 'want it started at once')
    .option('--timeout <duration>', 'how long to wait', longTimeout)
    .action(act((session, [from, vmid], options) => restoreGuest(session, from ?? '', vmid, options as RestoreOptions)));
  const files = restore
    .command('files <guest>')
    .description('single files out of a backup: on a server, whose files hold the secret and the key of the target')
    .option('--target <id>', 'where from');
  restore
    .command('abort <guest>')
    .description(
      'end a restore that is under way; a new guest goes with all that it wrote, one that is restored over stays as it is',
    )
    .action(act((session, [number]) => abortRestore(session, number ?? '')));
  addFileOptions(files).action(
    act((session, [from], options) => {
      const target = (options as Partial<RestoreOptions>).target ?? restore.opts<Partial<RestoreOptions>>().target;
      return restoreFiles(session, from ?? '', target, options);
    }),
  );
}

async function restoreFiles(session: Session, from: string, targetId: string | undefined, options: FileOptions): Promise<void> {
  const choice = readSource(from);
  const target = await requireTarget(session, targetId);
  const access = await readTargetAccess(target);
  const { session: opened } = await openGuestBackup(access, choice, session.world.signal);
  using reader = opened;
  await using pool = clientWorkers.startPool(access.key);
  const source = await openSnapshot(reader, access.key, pool, nodeBytes);
  await serveFiles(session, source, diskOfArchive, options);
}

/** Raises AppError missing, naming the targets that there are; invalid without an id. */
export async function requireTarget(session: Session, id: string | undefined): Promise<BackupTarget> {
  if (id === undefined) throw new AppError('invalid', 'target: say where from: --target ID (see `backup target list`)');
  const target = await readRecord<BackupTarget>(session, keys.backupTarget(id));
  if (target !== null) return target;
  const known = (await listRecords<BackupTarget>(session, prefixes.backupTargets)).map((target) => target.id).join(', ');
  throw new AppError('missing', `target: there is no backup target ${id} (known: ${known === '' ? 'none' : known})`);
}

async function restoreGuest(session: Session, from: string, number: string | undefined, options: RestoreOptions): Promise<void> {
  const deadlineMs = parseTimeout(options.timeout);
  const source = readSource(from);
  const isOver = options.over === true;
  if (number === undefined && !isOver)
    throw new AppError('invalid', 'vmid: say the number of the new guest, or --over to replace the disks of this one');
  const vmid = number === undefined ? source.vmid : parseVmid(number);
  const isLive = options.live === true;
  if (isLive && isOver) throw new AppError('invalid', 'live: it makes a new guest; leave --over away, or --live');
  const { id: target } = await requireTarget(session, options.target);
  const existing = (await listRecords<GuestRecord>(session, prefixes.guests)).find((guest) => guest.vmid === vmid) ?? null;
  const node = isOver ? findHome(vmid, existing, options) : await findPlace(session, vmid, existing, options);
  const order: RestoreOrder = {
    kind: 'guest-restore',
    vmid,
    target,
    from: source,
    name: options.name ?? null,
    bridge: options.bridge ?? null,
    keepMacs: options.keepMacs === true,
    want: isLive || (!isOver && options.start === true) ? 'started' : 'stopped',
    over: isOver,
    ...(isLive ? { live: true } : {}),
  };
  if (isLive) session.world.err.write(warning(vmid, node, target));
  const result = await performRequest(session, node, order, deadlineMs);
  session.printer.show({ vmid, node, result }, () => result.map((line) => `${line}\n`).join(''));
  if (isOver && options.start === true)
    await setWanted(session, String(vmid), 'started', { wait: true, deadlineMs, force: false });
}

/** What is to be known before a guest is let run on disks that are not there yet. */
function warning(vmid: number, node: string, target: string): string {
  return [
    `guest ${vmid} starts on ${node} at once; until all of its disks has come from ${target},`,
    `- no other node has a copy: if ${node} is lost for good, all that the guest wrote since is lost, and it is to be restored again;`,
    `- it is paused whenever it reads what ${target} cannot give just then.`,
    `\`holdfast restore abort ${vmid}\` takes it away again.\n`,
  ].join('\n');
}

async function abortRestore(session: Session, number: string): Promise<void> {
  const vmid = parseVmid(number, 'guest');
  const requests = await listRecords<RequestRecord>(session, prefixes.requests);
  const own = requests.filter(
    (request) =>
      request.kind === 'guest-restore' && request.vmid === vmid && (request.state === 'waiting' || request.state === 'running'),
  );
  if (own.length === 0) throw new AppError('missing', `no restore of guest ${vmid} is under way`);
  for (const { id } of own) await changeRecord<RequestRecord>(session, keys.request(id), `request ${id}`, () => null);
  session.printer.show({ vmid }, () => `the restore of guest ${vmid} is being ended\n`);
}

function readSource(from: string): { vmid: number; atSeconds: number | null } {
  const [source, time, ...more] = from.split('/');
  const atSeconds = time === undefined ? null : readSnapshotTime(time);
  if (more.length > 0 || (time !== undefined && atSeconds === null))
    throw new AppError('invalid', `guest: ${JSON.stringify(from)} is not NUMBER or NUMBER/YYYY-MM-DDTHH:MM:SSZ`);
  return { vmid: parseVmid(source, 'guest'), atSeconds };
}

function findHome(vmid: number, existing: GuestRecord | null, { node, keepMacs }: RestoreOptions): string {
  if (existing === null)
    throw new AppError('missing', `vmid: there is no guest ${vmid} to replace; leave --over away to make it`);
  if (keepMacs === true) throw new AppError('invalid', 'keep-macs: a guest that is restored over keeps its own addresses anyway');
  if (node === undefined || node === existing.home) return existing.home;
  throw new AppError('invalid', `node: guest ${vmid} is at home on ${existing.home}; move it there first, or leave --node away`);
}

async function findPlace(
  session: Session,
  vmid: number,
  existing: GuestRecord | null,
  { node }: RestoreOptions,
): Promise<string> {
  if (existing !== null)
    throw new AppError(
      'conflict',
      `vmid: guest ${vmid} exists (${existing.name}); nothing was changed. Take a number that is free, or --over to replace its disks`,
    );
  const place = session.place.kind === 'server' ? session.place.node : undefined;
  const wanted = node ?? place;
  if (wanted === undefined) throw new AppError('invalid', 'node: say on which node of the lab it is to be made, e.g. --node n1');
  return await findNode(session, wanted);
}
