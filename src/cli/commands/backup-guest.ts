import type { Command } from 'commander';
import { resolve } from 'node:path';
import { AppError } from '#base/error.ts';
import { parseFingerprint } from '#core/backup/crypt-key.ts';
import { parseNamespace } from '#core/backup/names.ts';
import { parseRepository } from '#core/backup/repository.ts';
import { listBackupTroubles } from '#core/guest-backup/backup-troubles.ts';
import type { BackupTarget, GuestBackupRecord } from '#core/guest-backup/records.ts';
import type { ClusterView } from '#core/ha/cluster-view.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { RequestRecord } from '#core/ha/requests.ts';
import { formatDuration } from '#core/text/duration.ts';
import { formatSize, parseSize } from '#core/text/size.ts';
import { longTimeout, parseTimeout } from '#cli/command-options.ts';
import { addBackupJobCommands } from '#cli/commands/backup-jobs.ts';
import { addRestoreCommand, requireTarget } from '#cli/commands/restore.ts';
import { changeRecord, findGuest, listRecords } from '#cli/records.ts';
import { performRequest } from '#cli/request-run.ts';
import { type Act, clusterActions, type Session } from '#cli/session.ts';
import type { CliWorld } from '#cli/world.ts';

type RunOptions = { target: string; freeze: boolean; notes?: string; rate?: string; timeout: string };
type TargetOptions = { repository: string; fingerprint?: string; ns?: string; passwordFile: string; keyfile?: string };
/** Adds `backup guest`, `backup target` and `restore` to the program. */
export function addGuestBackupCommands(program: Command, backup: Command, world: CliWorld, run: (code: number) => void): void {
  const act = clusterActions(world, run);
  const guest = backup.command('guest').description("backups of the cluster's guests, made by the nodes they run on");
  guest
    .command('run <guests...>')
    .description('back guests up now, two at a time on each node')
    .requiredOption('--target <id>', 'where to, see `backup target list`')
    .option('--no-freeze', 'do not ask the agent in the guest to bring its file systems to rest')
    .option('--notes <text>', 'a note that stays with the backup')
    .option('--rate <size>', 'at most so much a second, e.g. 20M')
    .option('--timeout <duration>', 'how long to wait', longTimeout)
    .action(act((session, guests, options) => runBackups(session, guests, options as RunOptions)));
  guest
    .command('abort <guest>')
    .description('end a backup that is under way; nothing is kept of it')
    .action(act((session, [name]) => abortBackup(session, name ?? '')));
  guest
    .command('list')
    .description('the newest backup of each guest on each target')
    .action(act((session) => listBackups(session)));
  addTargetCommands(backup, act);
  addBackupJobCommands(backup, act);
  addRestoreCommand(program, act);
}

function addTargetCommands(backup: Command, act: Act): void {
  const target = backup.command('target').description('the places that guests are backed up to');
  target
    .command('add <id>')
    .description('name a place, or change one; secrets stay in files on each node')
    .requiredOption('--repository <repository>', 'USER@REALM!TOKEN@HOST:PORT:STORE')
    .requiredOption('--password-file <file>', "the token's secret: this file on each node")
    .option('--fingerprint <fingerprint>', "of the server's certificate")
    .option('--ns <namespace>', 'namespace')
    .option('--keyfile <file>', 'encrypt with this key: a file on each node, without passphrase')
    .action(act((session, [id], options) => addTarget(session, id ?? '', options as TargetOptions)));
  target
    .command('list')
    .description('all of them')
    .action(act((session) => listTargets(session)));
  target
    .command('remove <id>')
    .description('forget it; what lies there stays')
    .action(act((session, [id]) => removeTarget(session, id ?? '')));
}

async function addTarget(session: Session, id: string, options: TargetOptions): Promise<void> {
  if (!/^[a-z][a-z0-9-]{0,31}$/.test(id))
    throw new AppError('invalid', `id: ${JSON.stringify(id)} is not a short lower-case name`);
  parseRepository(options.repository, 'repository');
  if (options.fingerprint !== undefined) parseFingerprint(options.fingerprint, 'fingerprint');
  const record: BackupTarget = {
    id,
    repository: options.repository,
    fingerprint: options.fingerprint?.toLowerCase() ?? null,
    namespace: parseNamespace(options.ns ?? '', 'ns').join('/'),
    passwordFile: resolve(options.passwordFile),
    keyFile: options.keyfile === undefined ? null : resolve(options.keyfile),
  };
  await changeRecord<BackupTarget>(session, keys.backupTarget(id), `backup target ${id}`, () => record);
  const how = record.keyFile === null ? 'NOT encrypted' : 'encrypted';
  session.printer.show(record, () => `backup target ${id} is ${record.repository}; what goes there is ${how}\n`);
}

async function listTargets(session: Session): Promise<void> {
  const targets = await listRecords<BackupTarget>(session, prefixes.backupTargets);
  const rows = targets.map(({ id, repository, namespace, keyFile }) => [
    id,
    repository,
    namespace === '' ? '-' : namespace,
    keyFile ?? 'not encrypted',
  ]);
  const columns = ['TARGET', 'REPOSITORY', 'NAMESPACE', 'KEY'].map((title) => ({ title }));
  session.printer.show(targets, () => session.printer.table(columns, rows, 'there is no backup target yet'));
}

async function removeTarget(session: Session, id: string): Promise<void> {
  await changeRecord<BackupTarget>(session, keys.backupTarget(id), `backup target ${id}`, (current) => {
    if (current === null) throw new AppError('missing', `id: there is no backup target ${id}`);
    return null;
  });
  session.printer.show({ id }, () => `backup target ${id} is forgotten; what lies there stays\n`);
}

async function runBackups(session: Session, names: string[], options: RunOptions): Promise<void> {
  const deadlineMs = parseTimeout(options.timeout);
  const rateBytesPerSecond = options.rate === undefined ? null : parseSize(options.rate.replace(/\/s$/, ''), 'rate');
  if (rateBytesPerSecond !== null && rateBytesPerSecond < 65_536) throw new AppError('invalid', 'rate: less than 64K a second');
  await requireTarget(session, options.target);
  const guests = await Promise.all(names.map((name) => findGuest(session, name)));
  const { target, freeze, notes = null } = options;
  const order = { kind: 'guest-backup' as const, target, freeze, notes, rateBytesPerSecond };
  const results = await Promise.allSettled(
    guests.map(({ vmid, home }) => performRequest(session, home, { ...order, vmid }, deadlineMs)),
  );
  const lines = results.flatMap((result) => (result.status === 'fulfilled' ? result.value : []));
  session.printer.show({ guests: guests.map(({ vmid }) => vmid), result: lines }, () =>
    lines.map((line) => `${line}\n`).join(''),
  );
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}

async function abortBackup(session: Session, name: string): Promise<void> {
  const guest = await findGuest(session, name);
  const requests = await listRecords<RequestRecord>(session, prefixes.requests);
  const own = requests.filter(
    (request) =>
      request.kind === 'guest-backup' &&
      request.vmid === guest.vmid &&
      (request.state === 'waiting' || request.state === 'running'),
  );
  if (own.length === 0) throw new AppError('missing', `no backup of guest ${guest.vmid} ${guest.name} is under way`);
  for (const { id } of own) await changeRecord<RequestRecord>(session, keys.request(id), `request ${id}`, () => null);
  session.printer.show({ vmid: guest.vmid }, () => `the backup of guest ${guest.vmid} ${guest.name} is being ended\n`);
}

async function listBackups(session: Session): Promise<void> {
  const records = await listRecords<GuestBackupRecord>(session, prefixes.guestBackups);
  const nowMs = session.world.nowMs();
  const rows = records.map(({ vmid, target, last, failed }) => [
    String(vmid),
    target,
    last?.snapshot ?? 'none',
    last === null ? '-' : formatDuration(nowMs - last.pointAtMs),
    last === null ? '-' : `${last.figures.kind}, sent ${formatSize(last.figures.sentWireBytes)}`,
    describeLastTry(last, failed),
  ]);
  const columns = ['GUEST', 'TARGET', 'NEWEST', 'AGE', 'HOW', 'LAST TRY'].map((title) => ({ title }));
  session.printer.show(records, () => session.printer.table(columns, rows, 'no guest was backed up yet'));
}

/** Lines for `status`, of guests and targets that there still are. */
export async function readBackupTroubles(session: Session, view: Pick<ClusterView, 'guests'>): Promise<string[]> {
  const records = await listRecords<GuestBackupRecord>(session, prefixes.guestBackups);
  const targets = await listRecords<BackupTarget>(session, prefixes.backupTargets);
  const isKnown = ({ vmid, target }: GuestBackupRecord): boolean =>
    view.guests.some((guest) => guest.vmid === vmid) && targets.some(({ id }) => id === target);
  return listBackupTroubles(records.filter(isKnown), session.world.nowMs(), formatDuration);
}

function describeLastTry(last: GuestBackupRecord['last'], failed: GuestBackupRecord['failed']): string {
  if (failed !== null) return `failed: ${failed.because}`;
  return last?.notThinned === undefined ? 'well' : `well, but older ones were not thinned out: ${last.notThinned}`;
}
