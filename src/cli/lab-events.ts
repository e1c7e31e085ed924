import { limits } from '#base/limits.ts';
import type { Cell } from '#core/text/table.ts';
import { formatLabEvent } from '#cli/lab-text.ts';
import { tableWithoutHead, type Printer } from '#cli/session.ts';
import { formatTimeMs } from '#cli/time.ts';
import type { CliWorld } from '#cli/world.ts';
import type { LabEvent } from '#lab/lab-event.ts';

type EventSource = { world: Pick<CliWorld, 'sleep'>; printer: Printer; read: () => LabEvent[] };

/** Prints the newest `limit` events, and with `follow` those that come, until Ctrl-C. */
export async function showLabEvents({ world, printer, read }: EventSource, limit: number, follow: boolean): Promise<void> {
  let seen = read();
  const newest = seen.slice(-limit);
  printer.show(newest, () => formatEvents(newest, printer));
  while (follow) {
    await world.sleep(limits.cliPollMs);
    const all = read();
    // A list that became shorter is another lab's of the same name.
    const fresh = all.slice(all.length < seen.length ? 0 : seen.length);
    seen = all;
    if (fresh.length > 0) printer.show(fresh, () => tableWithoutHead(formatEvents(fresh, printer)));
  }
}

function formatEvents(events: LabEvent[], printer: Printer): string {
  const rows = events.map((event): Cell[] => {
    const { what, node, details } = formatLabEvent(event);
    return [formatTimeMs(event.atMs), node, what, details];
  });
  const columns = [{ title: 'TIME' }, { title: 'NODE' }, { title: 'WHAT' }, { title: 'DETAILS', wraps: true }];
  return printer.table(columns, rows, 'nothing has happened yet');
}
