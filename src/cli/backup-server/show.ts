import { formatSize } from '#core/text/size.ts';
import type { Printer } from '#cli/session.ts';

/** What the server answered, for people: lists as tables, one thing as lines. */
export function showAnswer(printer: Printer, data: unknown, columns: readonly string[] | null): void {
  printer.show(data, () => {
    if (data === null || data === undefined || data === '') return 'done\n';
    if (Array.isArray(data)) return formatList(printer, data, columns);
    if (typeof data === 'object')
      return Object.entries(data)
        .map(([name, value]) => `${name}: ${formatValue(name, value)}\n`)
        .join('');
    return `${formatValue('', data)}\n`;
  });
}

function formatList(printer: Printer, list: readonly unknown[], columns: readonly string[] | null): string {
  const rows = list.map((row) => (typeof row === 'object' && row !== null ? (row as Record<string, unknown>) : { value: row }));
  const titles = columns ?? [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const used = titles.filter((title) => rows.some((row) => (row[title] ?? '') !== ''));
  return printer.table(
    used.map((title) => ({ title, wraps: title === 'comment' || title === 'error' })),
    rows.map((row) => used.map((title) => formatValue(title, row[title]))),
    'none',
  );
}

function formatValue(name: string, value: unknown): string {
  if (value === undefined || value === null) return '';
  if (typeof value === 'number' && /^(total|used|avail|size)$|-bytes$/.test(name)) return formatSize(value);
  if (typeof value === 'number' && /time$|^(expire|locked-until|last-backup|next-run|estimated-full-date)$/.test(name))
    return value === 0 ? 'never' : `${new Date(value * 1_000).toISOString().slice(0, 19)}Z`;
  if (name === 'verification' && typeof value === 'object' && 'state' in value && typeof value.state === 'string')
    return value.state;
  if (Array.isArray(value) && value.every((item) => typeof item !== 'object')) return value.join(' ');
  return typeof value === 'object' ? JSON.stringify(value) : String(value as string);
}
