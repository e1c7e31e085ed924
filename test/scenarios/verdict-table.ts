import type { Comparison } from './compare.ts';

type CheckedRules = { id: string; dropped: string[]; recorded: string[] };

/** The comparisons as a table for people, with every difference under its scenario, and the sums. */
export function formatTable(comparisons: Comparison[], checks: CheckedRules[]): string {
  const lines = comparisons.flatMap((entry) => [
    `${entry.id}  ${entry.theme.padEnd(22)}  must ${mark(entry.must)}  order ${mark(entry.order)}  time ${mark(entry.time)}${entry.counts ? '' : '  (not counted)'}`,
    ...[...entry.must, ...entry.order, ...entry.time].map((difference) => `    ${difference}`),
  ]);
  for (const check of checks) {
    const equal = check.dropped.join() === check.recorded.join();
    lines.push(`${check.id}  rules dropped ${equal ? 'ok' : 'NO'}`);
    if (!equal) lines.push(`    ${check.dropped.join(' ')}, recorded ${check.recorded.join(' ')}`);
  }
  const counted = comparisons.filter((entry) => entry.counts);
  const sum = (part: 'must' | 'order' | 'time'): string =>
    `${part} ${counted.filter((entry) => entry[part].length === 0).length} of ${counted.length}`;
  const rules = `rules ${checks.filter((check) => check.dropped.join() === check.recorded.join()).length} of ${checks.length}`;
  return `${lines.join('\n')}\n${sum('must')}, ${sum('order')}, ${sum('time')}, ${rules}\n`;
}

function mark(differences: string[]): string {
  return differences.length === 0 ? 'ok' : 'NO';
}
