import { limits } from '#base/limits.ts';
import { isAlive, type ClusterView, type CopyView, type GuestView, type NodeView } from '#core/ha/cluster-view.ts';
import { formatProof, type Verdict } from '#core/ha/verdict.ts';
import { formatDuration } from '#core/text/duration.ts';
import { formatSize } from '#core/text/size.ts';
import type { Cell, Tone } from '#core/text/table.ts';
import type { Printer } from '#cli/session.ts';

/** The whole status for people: the parts from the ground up, then what is worth a look, the verdict last. */
export function formatStatus(view: ClusterView, verdict: Verdict, printer: Printer): string {
  const serious = verdict.findings.filter((finding) => finding.severity !== 'note').length;
  // The sentence names the two worst; the rest is listed before it.
  const others = verdict.findings.slice(Math.min(2, serious)).map((finding) => `- ${finding.text}: ${finding.next}\n`);
  const parts = [
    formatHead(view),
    view.readable ? formatNodes(view.nodes, printer) : '',
    view.guests.length === 0 ? '' : formatGuests(view.guests, printer),
    view.guests.length === 0 ? '' : formatCopies(view.guests, printer),
    view.tails.length === 0 ? '' : formatTails(view.tails, printer),
    others.join(''),
    `${printer.paint(verdict.sentence, toneOfLevel(verdict.level))}\n`,
  ];
  return parts.filter((part) => part !== '').join('\n');
}

function formatHead(view: ClusterView): string {
  const healthy = view.members.filter((member) => member.healthy);
  const names = view.members.map(
    (member) => `${member.name}${member.leader ? ' leads' : ''}${member.healthy ? '' : ' does not'}`,
  );
  const lines = [`quorum   ${healthy.length} of ${view.members.length} members work (${names.join(', ')})`];
  if (view.cluster !== null) lines.unshift(`cluster  ${view.cluster}`);
  if (view.manager !== null) {
    const silent = view.manager.alive ? '' : ', silent';
    lines.push(`manager  ${view.manager.node} (epoch ${view.manager.epoch}${silent})`);
  }
  return lines.map((line) => `${line}\n`).join('');
}

/** The table of nodes, also for `node list`. */
export function formatNodes(nodes: NodeView[], printer: Printer): string {
  const rows = nodes.map((node): Cell[] => [
    node.name,
    { text: node.condition.kind, tone: toneOfNode(node) },
    node.epoch === null ? '-' : String(node.epoch),
    formatAgent(node),
    formatWatchdog(node),
    node.accelerator ?? '-',
    node.load === null ? '-' : String(node.load.guestsRunning),
    node.load === null || node.memoryMb === null ? '-' : `${node.load.memoryUsedMb}/${node.memoryMb} MiB`,
    formatNodeNote(node),
  ]);
  const columns = [
    { title: 'NODE' },
    { title: 'STATE' },
    { title: 'EPOCH', align: 'right' as const },
    { title: 'AGENT' },
    { title: 'WATCHDOG' },
    { title: 'ACCEL' },
    { title: 'GUESTS', align: 'right' as const },
    { title: 'MEMORY', align: 'right' as const },
    { title: 'NOTE', wraps: true },
  ];
  return printer.table(columns, rows, 'no node has joined yet');
}

function formatWatchdog(node: NodeView): Cell {
  if (!node.introduced) return '-';
  // A disarmed guard has closed it on purpose.
  if (node.watchdog === null) return node.condition.kind === 'disarmed' ? 'closed' : { text: 'none', tone: 'warn' };
  return formatDuration(node.watchdog.timeoutMs);
}

function formatAgent(node: NodeView): Cell {
  if (!isAlive(node.condition)) return '-';
  if (node.agentSilentMs === null) return { text: 'not seen', tone: 'warn' };
  return node.agentSilentMs > limits.agentSilentShownMs
    ? { text: `silent ${formatDuration(node.agentSilentMs)}`, tone: 'warn' }
    : 'ok';
}

function formatNodeNote(node: NodeView): string {
  const { condition } = node;
  const notes = [...node.problems];
  if (condition.kind === 'fenced') notes.unshift(`for ${formatDuration(condition.forMs)}: ${formatProof(condition.proof)}`);
  if (condition.kind === 'silent' && condition.forMs !== null) notes.unshift(`last heard ${formatDuration(condition.forMs)} ago`);
  return notes.join('; ');
}

/** The table of guests, also for `guest list`. */
export function formatGuests(guests: GuestView[], printer: Printer): string {
  const rows = guests.map((guest): Cell[] => [
    String(guest.vmid),
    guest.name,
    guest.home,
    String(guest.generation),
    guest.want,
    { text: guest.state, tone: toneOfGuest(guest) },
    guest.because,
  ]);
  const columns = [
    { title: 'GUEST', align: 'right' as const },
    { title: 'NAME' },
    { title: 'HOME' },
    { title: 'GEN', align: 'right' as const },
    { title: 'WANTED' },
    { title: 'STATE' },
    { title: 'BECAUSE', wraps: true },
  ];
  return printer.table(columns, rows, 'there is no guest yet');
}

/** The table of copies, also for `replication list`. */
export function formatCopies(guests: GuestView[], printer: Printer): string {
  const rows = guests.flatMap((guest) =>
    guest.copies.map((copy): Cell[] => [`${guest.vmid} ${guest.name}`, copy.node, ...formatCopy(guest, copy)]),
  );
  const columns = [
    { title: 'COPY OF' },
    { title: 'ON' },
    { title: 'DATA AGE', align: 'right' as const },
    { title: 'WANTED', align: 'right' as const },
    { title: 'POINT' },
    { title: 'LAST CYCLE' },
    { title: 'MOVED', align: 'right' as const },
    { title: 'TOOK', align: 'right' as const },
    { title: 'PAUSED', align: 'right' as const },
  ];
  return printer.table(columns, rows, 'there is no other node to hold a copy');
}

function formatCopy(guest: GuestView, copy: CopyView): Cell[] {
  const wanted = guest.replicated ? formatDuration(guest.intervalMs) : 'off';
  if (copy.newest === null) return [{ text: 'no copy', tone: 'warn' }, wanted, '-', '-', '-', '-', '-'];
  const { point, ageMs, cycle } = copy.newest;
  const age = formatDuration(ageMs);
  return [
    copy.reachable ? age : { text: `${age} (node down)`, tone: 'warn' },
    wanted,
    `g${point.generation}.${point.seq}`,
    cycle.kind,
    formatSize(cycle.bytes),
    formatDuration(cycle.tookMs),
    `${cycle.pausedMs} ms`,
  ];
}

/** The table of kept tails; `more`: with their age and when they are removed, for `replication tails`. */
export function formatTails(
  tails: (ClusterView['tails'][number] & { expiresAtMs?: number | null })[],
  printer: Printer,
  more?: { nowMs: number },
): string {
  const formatExpiry = (expiresAtMs: number | null, nowMs: number): string =>
    expiresAtMs === null
      ? 'until it is released'
      : expiresAtMs <= nowMs
        ? 'about to go'
        : `${formatDuration(expiresAtMs - nowMs)} more`;
  const rows = tails.map((tail): Cell[] => [
    String(tail.vmid),
    tail.node,
    tail.name,
    tail.sizeBytes === null ? 'not measured' : formatSize(tail.sizeBytes),
    tail.fromAtMs === null || tail.untilAtMs === null ? 'not known' : formatDuration(tail.untilAtMs - tail.fromAtMs),
    ...(more === undefined
      ? []
      : [
          tail.untilAtMs === null ? 'not known' : formatDuration(Math.max(0, more.nowMs - tail.untilAtMs)),
          formatExpiry(tail.expiresAtMs ?? null, more.nowMs),
        ]),
  ]);
  const columns = [
    { title: 'LEFT BEHIND BY', align: 'right' as const },
    { title: 'ON' },
    { title: 'NAME' },
    { title: 'SIZE', align: 'right' as const },
    { title: 'PERIOD', align: 'right' as const },
    ...(more === undefined ? [] : [{ title: 'LAST WRITE', align: 'right' as const }, { title: 'KEPT' }]),
  ];
  return printer.table(columns, rows, 'no writes were left behind');
}

function toneOfNode(node: NodeView): Tone {
  if (node.condition.kind === 'serving') return 'good';
  return node.condition.kind === 'fenced' ? 'bad' : 'warn';
}

function toneOfGuest(guest: GuestView): Tone {
  if (guest.state === 'running') return 'good';
  return guest.want === 'started' ? 'bad' : 'plain';
}

function toneOfLevel(level: Verdict['level']): Tone {
  return level === 'ok' ? 'good' : level === 'degraded' ? 'warn' : 'bad';
}
