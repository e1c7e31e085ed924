/** Tables for people: aligned columns, no lines, no colour unless asked for. */

/** How a cell is meant; shown as colour on a terminal. */
export type Tone = 'plain' | 'good' | 'warn' | 'bad' | 'dim';
export type Cell = string | { text: string; tone: Tone };
/** `wraps`: gives way when the table would be too wide; its words go on in the next line. The widest gives most. */
export type Column = { title: string; align?: 'left' | 'right'; wraps?: boolean };
type TableLook = { widthColumns: number; color: boolean };

const gap = '  ';
const narrowestWrap = 12;
const codes: Record<Tone, string> = { plain: '', good: '32', warn: '33', bad: '31', dim: '2' };

/** Wraps `text` in the terminal's code for `tone`; returns it unchanged without colour. */
export function paint(text: string, tone: Tone, color: boolean): string {
  return color && tone !== 'plain' ? `\u001b[${codes[tone]}m${text}\u001b[0m` : text;
}

/** Returns the table as lines joined by newlines, ending in a newline; an empty string without rows. */
export function formatTable(columns: Column[], rows: Cell[][], look: TableLook): string {
  if (rows.length === 0) return '';
  const widths = fitWidths(columns, rows, look.widthColumns);
  const head = formatRow(
    columns,
    columns.map((column) => ({ text: column.title, tone: 'dim' as const })),
    widths,
    look,
  );
  return [...head, ...rows.flatMap((row) => formatRow(columns, row, widths, look))].map((line) => `${line}\n`).join('');
}

function fitWidths(columns: Column[], rows: Cell[][], widthColumns: number): number[] {
  const natural = columns.map((column, index) => Math.max(column.title.length, ...rows.map((row) => textOf(row[index]).length)));
  const widths = [...natural];
  const wrapping = columns.flatMap((column, index) => (column.wraps === true ? [index] : []));
  const width = (index: number) => widths[index] ?? 0;
  let excess = widths.reduce((sum, each) => sum + each, 0) + gap.length * (columns.length - 1) - widthColumns;
  while (excess > 0) {
    const widest = wrapping.filter((index) => width(index) > narrowestWrap).sort((a, b) => width(b) - width(a))[0];
    if (widest === undefined) break;
    widths[widest] = width(widest) - 1;
    excess -= 1;
  }
  return widths;
}

function formatRow(columns: Column[], row: Cell[], widths: number[], look: TableLook): string[] {
  const cells = columns.map((column, index) =>
    column.wraps ? wrapWords(textOf(row[index]), widths[index] ?? 0) : [textOf(row[index])],
  );
  const height = Math.max(1, ...cells.map((lines) => lines.length));
  return Array.from({ length: height }, (_, line) =>
    columns
      .map((column, index) => {
        const text = cells[index]?.[line] ?? '';
        const width = widths[index] ?? 0;
        const last = index === columns.length - 1;
        const padded = column.align === 'right' ? text.padStart(width) : last ? text : text.padEnd(width);
        return paint(padded, toneOf(row[index]), look.color);
      })
      .join(gap)
      .trimEnd(),
  );
}

/** Breaks at spaces; a word longer than the width is cut, so that a line never grows past it. */
function wrapWords(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    const longer = line === '' ? word : `${line} ${word}`;
    if (longer.length <= width) {
      line = longer;
      continue;
    }
    if (line !== '') lines.push(line);
    line = word;
    while (line.length > width) {
      lines.push(line.slice(0, width));
      line = line.slice(width);
    }
  }
  lines.push(line);
  return lines;
}

function textOf(cell: Cell | undefined): string {
  return cell === undefined ? '' : typeof cell === 'string' ? cell : cell.text;
}

function toneOf(cell: Cell | undefined): Tone {
  return cell === undefined || typeof cell === 'string' ? 'plain' : cell.tone;
}
