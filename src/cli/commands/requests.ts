import type { Command } from 'commander';
import { prefixes } from '#core/ha/keys.ts';
import { formatRequest, type RequestRecord } from '#core/ha/requests.ts';
import type { Cell } from '#core/text/table.ts';
import { listRecords } from '#cli/records.ts';
import { formatProgress } from '#cli/request-run.ts';
import { clusterActions, type Session } from '#cli/session.ts';
import { formatTime } from '#cli/time.ts';
import type { CliWorld } from '#cli/world.ts';

/** Adds `requests` to the program. */
export function addRequestsCommand(program: Command, world: CliWorld, run: (code: number) => void): void {
  program
    .command('requests')
    .description('work that was asked of nodes and is not done yet, or ended unseen')
    .action(clusterActions(world, run)(listRequests));
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
