import type { Command } from 'commander';
import { AppError } from '#base/error.ts';
import { parseVmid } from '#base/ids.ts';
import { keepRules, type KeepRules } from '#core/backup/prune.ts';
import { checkProbe, describeTest } from '#core/guest-backup/restore-test.ts';
import type { BackupJob, RestoreProbe, RestoreTestRecord } from '#core/guest-backup/records.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import { parseCalendarEvent } from '#core/text/calendar-event.ts';
import { formatDuration, parseDuration } from '#core/text/duration.ts';
import { parseChoice, parseFields, parseWholeNumber } from '#core/text/fields.ts';
import { parseSize } from '#core/text/size.ts';
import { longTimeout, parseTimeout } from '#cli/command-options.ts';
import { changeRecord, findGuest, findNode, listRecords } from '#cli/records.ts';
import { performRequest } from '#cli/request-run.ts';
import type { Act, Session } from '#cli/session.ts';

type JobOptions = {
  target: string;
  guests?: string;
  except?: string;
  schedule?: string;
  keep?: string;
  notes?: string;
  rate?: string;
  freeze: boolean;
  test?: string;
  off?: boolean;
};
type TestOptions = { target: string; probe: string; node?: string; timeout: string };

const probeHelp = 'boot, agent, port:address=A/LEN,port=P or sql:address=A/LEN,port=P,user=U,database=D,query=Q; also timeout=2m';

/** Adds `backup job` and `backup test`. */
export function addBackupJobCommands(backup: Command, act: Act): void {
  const job = backup.command('job').description('backups by schedule; each guest is backed up by the node it runs on');
  job
    .command('set <id>')
    .description('make a job, or change it to exactly this')
    .requiredOption('--target <id>', 'where to')
    .option('--guests <numbers>', 'these guests, e.g. 101,102 (default: all)')
    .option('--except <numbers>', 'but not these')
    .option(
      '--schedule <event>',
      'a calendar event in the nodes\' own time, e.g. "mon..fri 02:30" or daily (default: by hand only)',
    )
    .option('--keep <rules>', 'what stays afterwards, e.g. last=3,daily=7,weekly=4 (default: everything)')
    .option('--notes <text>', 'a note that stays with each backup')
    .option('--rate <size>', 'at most so much a second')
    .option('--no-freeze', 'do not ask the agents in the guests')
    .option('--test <probe>', `a restore test follows each backup: ${probeHelp}`)
    .option('--off', 'keep it, but do not run it')
    .action(act((session, [id], options) => setJob(session, id ?? '', options as JobOptions)));
  job
    .command('list')
    .description('all jobs')
    .action(act((session) => listJobs(session)));
  job
    .command('remove <id>')
    .description('remove a job; what it backed up stays')
    .action(act((session, [id]) => removeJob(session, id ?? '')));
  backup
    .command('test <guest>')
    .description('restore its newest backup apart from everything, see whether it lives, take it away again')
    .requiredOption('--target <id>', 'where from')
    .option('--probe <probe>', probeHelp, 'boot')
    .option('--node <node>', 'where to try (default: its home)')
    .option('--timeout <duration>', 'how long to wait', longTimeout)
    .action(act((session, [guest], options) => testBackup(session, guest ?? '', options as TestOptions)));
}

async function setJob(session: Session, id: string, options: JobOptions): Promise<void> {
  if (!/^[a-z][a-z0-9-]{0,31}$/.test(id))
    throw new AppError('invalid', `id: ${JSON.stringify(id)} is not a short lower-case name`);
  if (options.schedule !== undefined) parseCalendarEvent(options.schedule);
  const next = {
    id,
    target: options.target,
    guests: options.guests === undefined ? null : parseNumbers(options.guests, 'guests'),
    except: options.except === undefined ? [] : parseNumbers(options.except, 'except'),
    schedule: options.schedule ?? null,
    keep: options.keep === undefined ? null : parseKeep(options.keep),
    notes: options.notes ?? null,
    rateBytesPerSecond: options.rate === undefined ? null : parseSize(options.rate.replace(/\/s$/, ''), 'rate'),
    freeze: options.freeze,
    enabled: options.off !== true,
    test: options.test === undefined ? null : parseProbe(options.test),
  };
  const job = await changeRecord<BackupJob>(session, keys.backupJob(id), `backup job ${id}`, (current) => ({
    ...next,
    createdAtMs: current?.createdAtMs ?? session.world.nowMs(),
  }));
  session.printer.show(job, () => `backup job ${id}: ${describeJob({ ...next, createdAtMs: 0 })}\n`);
}

function describeJob({ guests, except, target, schedule, enabled, test }: BackupJob): string {
  const who = guests === null ? 'all guests' : `guests ${guests.join(', ')}`;
  const but = except.length === 0 ? '' : ` but ${except.join(', ')}`;
  const when = enabled ? (schedule ?? 'by hand only') : 'switched off';
  return `${who}${but} to ${target}, ${when}${test === null ? '' : `, then a restore test (${test.kind})`}`;
}

function parseNumbers(text: string, field: string): number[] {
  return text.split(',').map((part) => parseVmid(part.trim(), field));
}

function parseKeep(text: string): KeepRules {
  const fields = parseFields(text, 'keep', (key) => keepRules.some((rule) => rule === key), 'last=3,daily=7');
  const count = (rule: string): number | null => {
    const value = fields.get(rule);
    return value === undefined ? null : parseWholeNumber(value, `keep ${rule}`, 1, 10_000);
  };
  return Object.fromEntries(keepRules.map((rule) => [rule, count(rule)])) as KeepRules;
}

/** Reads `KIND[:field=value,…]`; the query comes last and takes the rest. */
function parseProbe(text: string): RestoreProbe {
  const [word = '', rest = ''] = text.split(/:(.*)/s);
  const kind = parseChoice(word, 'probe', ['boot', 'agent', 'port', 'sql'] as const);
  const [head = '', query] = rest.split(/,?query=(.*)/s);
  const known = ['address', 'port', 'user', 'database', 'timeout'];
  const fields = head === '' ? new Map<string, string>() : parseFields(head, 'probe', (key) => known.includes(key), probeHelp);
  const port = fields.get('port');
  const probe: RestoreProbe = {
    kind,
    address: fields.get('address') ?? null,
    port: port === undefined ? null : parseWholeNumber(port, 'probe: port', 1, 65_535),
    user: fields.get('user') ?? null,
    database: fields.get('database') ?? null,
    query: query ?? null,
    timeoutMs: parseDuration(fields.get('timeout') ?? '3m', 'probe: timeout'),
  };
  checkProbe(probe);
  return probe;
}

async function listJobs(session: Session): Promise<void> {
  const jobs = await listRecords<BackupJob>(session, prefixes.backupJobs);
  session.printer.show(jobs, () =>
    jobs.length === 0 ? 'there is no backup job yet\n' : jobs.map((job) => `${job.id}: ${describeJob(job)}\n`).join(''),
  );
}

async function removeJob(session: Session, id: string): Promise<void> {
  await changeRecord<BackupJob>(session, keys.backupJob(id), `backup job ${id}`, (current) => {
    if (current === null) throw new AppError('missing', `id: there is no backup job ${id}`);
    return null;
  });
  session.printer.show({ id }, () => `backup job ${id} is removed; what it backed up stays\n`);
}

async function testBackup(session: Session, name: string, options: TestOptions): Promise<void> {
  const deadlineMs = parseTimeout(options.timeout);
  const probe = parseProbe(options.probe);
  const guest = await findGuest(session, name);
  const node = options.node === undefined ? guest.home : await findNode(session, options.node);
  const order = { kind: 'restore-test' as const, vmid: guest.vmid, target: options.target, probe };
  const result = await performRequest(session, node, order, deadlineMs);
  session.printer.show({ vmid: guest.vmid, node, result }, () => result.map((line) => `${line}\n`).join(''));
}

/** What the last restore test of each guest found, for `status`. */
export async function readRestoreTests(session: Session): Promise<{ tests: RestoreTestRecord[]; text: string }> {
  const tests = await listRecords<RestoreTestRecord>(session, prefixes.restoreTests);
  const nowMs = session.world.nowMs();
  return { tests, text: tests.map((test) => `${describeTest(test, nowMs, formatDuration)}\n`).join('') };
}
