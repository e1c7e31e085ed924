import { isAlive, type ClusterView } from '#core/ha/cluster-view.ts';
import { prefixes } from '#core/ha/keys.ts';
import type { Finding } from '#core/ha/verdict-finding.ts';
import { formatPoolUse, type PoolRecord } from '#core/storage/zfs/pool-record.ts';
import type { Cell, Tone } from '#core/text/table.ts';
import type { Printer, Session } from '#cli/session.ts';

/** What the nodes that answer say of their pools; one that does not answer says nothing that still holds. */
export async function readPoolRecords({ store }: Session, view: Pick<ClusterView, 'nodes'>): Promise<PoolRecord[]> {
  const { entries } = await store.list(prefixes.nodes);
  const pools = entries.filter((entry) => entry.key.endsWith('/pool')).map((entry) => JSON.parse(entry.value) as PoolRecord);
  return pools.filter((pool) => view.nodes.some((node) => node.name === pool.node && isAlive(node.condition)));
}

/** A guest that does not run because of its pool is told as such; the pool itself is what would hurt next. */
export function judgePools(pools: readonly PoolRecord[]): Finding[] {
  return pools.flatMap(({ node, health }) =>
    health.problems.map(({ what, next }): Finding => ({ severity: 'degraded', text: `${node}: ${what}`, next })),
  );
}

/** The table of pools; nothing where guests' disks are files. */
export function formatPools(pools: readonly PoolRecord[], printer: Printer): string {
  if (pools.length === 0) return '';
  const tones: Record<PoolRecord['health']['level'], Tone> = { fine: 'good', worn: 'warn', lost: 'bad' };
  const rows = pools.map((record): Cell[] => [
    record.node,
    record.pool,
    { text: record.health.level, tone: tones[record.health.level] },
    formatPoolUse(record),
    record.notes.join('; '),
  ]);
  const columns = [{ title: 'NODE' }, { title: 'POOL' }, { title: 'STATE' }, { title: 'USED' }, { title: 'NOTE', wraps: true }];
  return `${printer.table(columns, rows, '')}\n`;
}
