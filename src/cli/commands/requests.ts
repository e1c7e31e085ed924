import type { Command } from 'commander';
import { AppError } from '#base/error.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import { formatRequest, type RequestRecord } from '#core/ha/requests.ts';
import type { Cell } from '#core/text/table.ts';
import { changeRecord, listRecords } from '#cli/records.ts';
import { formatProgress } from '#cli/request-run.ts';
import { clusterActions, type Session } from '#cli/session.ts';
import { formatTime } from '#cli/time.ts';
import type { CliWorld } from '#cli/world.ts';

/** Adds the group `requests` to the program. Without a subcommand it lists. */
export function addRequestsCommands(program: Command, world: CliWorld, run: (code: number) => void): void {
  const act = clusterActions(world, run);
  const group = program.command('requests').description('work that was asked of nodes: under way, or ended unseen');
  group.command('list', { isDefault: true }).description('what is asked of which node').action(act(listRequests));
  group
    .command('remove <id>')
    .description('forget a request that ended, or withdraw one that nobody has taken up')
    .action(act((session, [id]) => removeRequest(session, id ?? '')));
}

async function removeRequest(session: Session, id: string): Promise<void> {
  let what = '';
  await changeRecord<RequestRecord>(session, keys.request(id), `request ${id}`, (current) => {
    if (current === null) throw new AppError('missing', `id: there is no request ${id}; see \`holdfast requests\``);
    if (current.state === 'running') {
      throw new AppError('conflict', `removing request ${id}: ${current.node} works on it (${formatProgress(current.progress)})`);
    }
    what = formatRequest(current);
    return null;
  });
  session.printer.show({ id }, () => `request ${id} to ${what} is removed\n`);
}

async function listRequests(session: Session): Promise<void> {
  const requests = await listRecords<RequestRecord>(session, prefixes.requests);
  const rows = requests.map((request): Cell[] => [
    request.id,
    formatTime(request.createdAtMs),
    request.node,
    request.state,
    formatRequest(request),
    formatOutcome(request),
  ]);
  const columns = [
    { title: 'REQUEST' },
    { title: 'ASKED' },
    { title: 'NODE' },
    { title: 'STATE' },
    { title: 'TO' },
    { title: 'NEWS', wraps: true },
  ];
  session.printer.show(requests, () => session.printer.table(columns, rows, 'nothing is asked of any node'));
}

function formatOutcome(request: RequestRecord): string {
  switch (request.state) {
    case 'waiting':
      return '';
    case 'running':
      return formatProgress(request.progress);
    case 'done':
      return request.result.join('; ');
    case 'failed':
      return request.error.message;
  }
}
