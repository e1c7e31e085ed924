import type { ClusterView, GuestView, NodeView } from '#core/ha/cluster-view.ts';
import type { ManagedGuest } from '#core/ha/cluster-view-ha.ts';
import { targetOf, type Disarm } from '#core/ha/manager/memory.ts';
import { formatDuration } from '#core/text/duration.ts';
import type { Cell, Tone } from '#core/text/table.ts';
import type { Printer } from '#cli/session.ts';

/** The table of guests as the manager sees them, for `ha list`. */
export function formatManagedGuests(guests: GuestView[], printer: Printer): string {
  const rows = guests.map((guest): Cell[] => {
    const { ha } = guest;
    if (ha === null) return [String(guest.vmid), guest.name, guest.want, '-', guest.home, '-', '', notManaged(guest)];
    return [
      String(guest.vmid),
      guest.name,
      guest.want,
      { text: ha.state.kind, tone: toneOf(ha) },
      formatPlace(ha),
      formatDuration(ha.forMs),
      formatNext(ha),
      ha.because,
    ];
  });
  const columns = [
    { title: 'GUEST', align: 'right' as const },
    { title: 'NAME' },
    { title: 'WANTED' },
    { title: 'STATE' },
    { title: 'ON' },
    { title: 'FOR', align: 'right' as const },
    { title: 'NEXT', wraps: true },
    { title: 'BECAUSE', wraps: true },
  ];
  return printer.table(columns, rows, 'there is no guest yet');
}

function notManaged({ want }: GuestView): string {
  return want === 'ignored' ? 'it is to be ignored' : 'the manager has not adopted it yet';
}

function formatPlace(ha: ManagedGuest): string {
  const to = targetOf(ha.state);
  return to === null ? ha.node : `${ha.node} > ${to}`;
}

/** Who does what next, and until when. */
export function formatNext({ state, next, leftMs }: ManagedGuest): string {
  const what = `${next.who}: ${next.next}`;
  // A failed guest waits for a person from the first instant on: late would say nothing.
  if (leftMs === null || state.kind === 'failed') return what;
  return leftMs < 0 ? `${what}; overdue for ${formatDuration(-leftMs)}` : `${what}; in ${formatDuration(leftMs)} at most`;
}

function toneOf({ state, leftMs }: ManagedGuest): Tone {
  if (state.kind === 'failed' || state.kind === 'awaiting-fence' || state.kind === 'awaiting-recovery') return 'bad';
  if (leftMs !== null && leftMs < 0) return 'warn';
  return state.kind === 'active' ? 'good' : 'plain';
}

/** The manager's view of the nodes with what an operator told it about them, for `ha nodes`. */
export function formatManagedNodes({ ha, nodes, manager }: ClusterView, printer: Printer): string {
  const rows = nodes.map((node): Cell[] => [
    node.name,
    node.ha.state ?? 'not seen',
    { text: node.condition.kind, tone: node.condition.kind === 'serving' ? 'good' : 'warn' },
    node.ha.agentMode,
    node.ha.claimedAgoMs.length === 0 ? '-' : String(node.ha.claimedAgoMs.length),
    notesOf(node).join('; '),
  ]);
  const columns = [
    { title: 'NODE' },
    { title: 'MANAGER SAYS' },
    { title: 'GUARD' },
    { title: 'AGENT' },
    { title: 'CLAIMS', align: 'right' as const },
    { title: 'NOTE', wraps: true },
  ];
  const leads = manager === null ? 'nobody leads' : `${manager.node} leads${manager.alive ? '' : ' and is silent'}`;
  const window = `claims: within ${formatDuration(ha.quarantine.windowMs)}`;
  const limit = ha.quarantine.afterClaims === 0 ? 'never quarantined' : `quarantined at ${ha.quarantine.afterClaims}`;
  const head = `${leads}; ${formatDisarm(ha.disarm)}; ${window}, ${limit}\n`;
  return `${head}${printer.table(columns, rows, 'no node has joined yet')}`;
}

function formatDisarm(disarm: Disarm | null): string {
  return disarm === null ? 'armed' : `disarmed (${disarm.mode}): ${disarm.stage}`;
}

function notesOf({ ha }: NodeView): string[] {
  const notes: string[] = [];
  if (ha.quarantined) notes.push('quarantined: receives no guests');
  if (ha.drained) notes.push('drained by an operator');
  if (ha.agentBecause !== null && ha.agentMode !== 'active') notes.push(ha.agentBecause);
  return notes;
}
