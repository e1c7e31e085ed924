import type { Cell } from '#core/text/table.ts';
import type { Printer } from '#cli/session.ts';
import type { LabEvent } from '#lab/lab-event.ts';
import type { RoomStatus } from '#lab/room/room-requests.ts';

/** The room for people. */
export function formatLabStatus(status: RoomStatus, printer: Printer): string {
  const rows = status.nodes.map((node): Cell[] => [
    node.name,
    node.address,
    { text: node.power, tone: node.power === 'up' ? 'good' : 'warn' },
    { text: node.link, tone: node.link === 'up' ? 'plain' : 'warn' },
    node.controller ?? '-',
    node.services.map((service) => `${service.name}${service.running ? '' : ' (not running)'}`).join(', '),
  ]);
  const columns = [
    { title: 'NODE' },
    { title: 'ADDRESS' },
    { title: 'POWER' },
    { title: 'LINK' },
    { title: 'CONTROLLER' },
    { title: 'SERVICES', wraps: true },
  ];
  const head = `lab ${status.name}, room process ${status.pid}, switch ${status.switchPower}\n`;
  return `${head}\n${printer.table(columns, rows, 'no nodes')}`;
}

/** What an event says besides its time, node and name, e.g. `by plug, killTookMs 0.4`. */
export function formatLabEvent(event: LabEvent): { what: string; node: string; details: string } {
  const { atMs: _atMs, event: what, ...rest } = event;
  const { node, ...details } = { node: '', ...rest };
  const parts = Object.entries(details as Record<string, unknown>).filter(([, value]) => value !== null && value !== undefined);
  return { what, node, details: parts.map(([key, value]) => `${key} ${formatValue(value)}`).join(', ') };
}

function formatValue(value: unknown): string {
  if (typeof value === 'number' && !Number.isInteger(value)) return value.toFixed(1);
  return typeof value === 'string' ? value : JSON.stringify(value);
}
