import type { Command } from 'commander';
import { readView } from '#cli/commands/status.ts';
import { formatManagedNodes } from '#cli/managed-text.ts';
import type { Act, Session } from '#cli/session.ts';

/** Adds `ha nodes`. */
export function addManagedNodesCommand(group: Command, act: Act): void {
  group
    .command('nodes')
    .description('the nodes as the manager sees them: state, drains, quarantine, disarming')
    .action(act(listManagedNodes));
}

async function listManagedNodes(session: Session): Promise<void> {
  const view = await readView(session);
  const nodes = view.nodes.map(({ name, condition, ha }) => ({ name, guard: condition.kind, ...ha }));
  session.printer.show({ manager: view.manager, ...view.ha, nodes }, () => formatManagedNodes(view, session.printer));
}
