import { formatDuration } from '#core/text/duration.ts';
import { formatSize } from '#core/text/size.ts';
import { chooseBlockBytes, paddingRatio } from './pool-plan.ts';
import type { CapacityForecast, PoolHealth, PoolProblem } from './pool-health.ts';
import type { PoolStatus, PoolUse } from './pool-status.ts';

/** `/holdfast/nodes/NAME/pool`: how the pool is that the node keeps guests' disks in, written by its agent when that changes. */
export type PoolRecord = {
  node: string;
  pool: string;
  /** null: it is not imported, so nothing is known of it. */
  use: Pick<PoolUse, 'sizeBytes' | 'allocatedBytes' | 'usedPercent'> | null;
  health: PoolHealth;
  /** Nothing to act on: a scrub that runs, blocks that waste room. */
  notes: string[];
  forecast: CapacityForecast | null;
  isScrubbing: boolean;
  /** Wall clock of the last change. */
  atMs: number;
};

/** The record of a pool that is not there. */
export function describeMissingPool(node: string, pool: string, why: string, atMs: number): PoolRecord {
  const problem = {
    what: `${pool} cannot be used: ${why}`,
    next: `on ${node}: holdfast pool status; holdfast pool import ${pool}`,
  };
  const health: PoolHealth = { level: 'lost', problems: [problem] };
  return { node, pool, use: null, health, notes: [], forecast: null, isScrubbing: false, atMs };
}

/** Things worth knowing of how a pool was made and what lies in it. `sectorBytes` null: not known. `volumeBlocks`: block to number of volumes. */
export function findPoolNotes(
  status: PoolStatus,
  facts: { sectorBytes: number | null; volumeBlocks: ReadonlyMap<number, number> },
): string[] {
  const notes: string[] = [];
  const { scan } = status;
  if (scan?.kind === 'scrub' && scan.state === 'running') {
    notes.push(`every block is being read and compared with its checksum (scrub), ${Math.round(scan.progress * 100)} % done`);
  }
  if (facts.sectorBytes !== null && facts.sectorBytes < 4_096) {
    notes.push(
      `the pool was made for sectors of ${facts.sectorBytes} bytes (ashift): disks that have 4096 write each block twice. It cannot be changed; make another pool with holdfast pool create`,
    );
  }
  const disks = countRaidzDisks(status);
  if (disks === null) return notes;
  const wanted = chooseBlockBytes(disks);
  for (const [block, count] of facts.volumeBlocks) {
    const ratio = paddingRatio(disks, block);
    if (block >= wanted || ratio < 1.2) continue;
    const volumes = count === 1 ? '1 disk has' : `${count} disks have`;
    notes.push(
      `${volumes} blocks of ${formatSize(block)}, which take ${ratio.toFixed(2)} times their room on a RAID-Z1 of ${disks}; new guests get ${formatSize(wanted)} with block-bytes = ${wanted} in [storage]`,
    );
  }
  return notes;
}

/** Disks of the first RAID-Z1 group; null: there is none. One that is being replaced counts once. */
function countRaidzDisks(status: PoolStatus): number | null {
  const start = status.devices.findIndex((device) => device.name.startsWith('raidz1'));
  if (start === -1) return null;
  const group = status.devices[start]?.depth ?? 0;
  let disks = 0;
  for (const device of status.devices.slice(start + 1)) {
    if (device.depth <= group) break;
    if (device.depth === group + 1) disks += 1;
  }
  return disks;
}

/** What changed in a pool since it was last told, for whoever keeps the story; empty: nothing to tell. */
export function listPoolChanges(before: PoolRecord | null, now: PoolRecord): string[] {
  const known = new Set(before?.health.problems.map((problem) => problem.what) ?? []);
  const appeared = now.health.problems.filter((problem) => !known.has(problem.what)).map(formatProblem);
  const isWell = before !== null && before.health.level !== 'fine' && now.health.level === 'fine';
  return isWell ? [`${now.pool} is well again`] : appeared;
}

/** Whether two records say the same to a person: a percent more or less of a scan, or some bytes, are not worth a write. */
export function saysTheSame(a: PoolRecord, b: PoolRecord): boolean {
  const told = ({ health, notes, use, forecast, isScrubbing }: PoolRecord): string => {
    const words = [health.level, ...health.problems.map(({ what }) => what), ...notes].map((text) =>
      text.replaceAll(/\d+ % done/g, ''),
    );
    return JSON.stringify([
      words,
      use?.usedPercent,
      use?.sizeBytes,
      forecast?.daysLeft && Math.floor(forecast.daysLeft),
      isScrubbing,
    ]);
  };
  return told(a) === told(b);
}

export function formatProblem(problem: PoolProblem): string {
  return `${problem.what}. Next: ${problem.next}`;
}

/** One line for `status`: how full it is and for how long it lasts. */
export function formatPoolUse(record: PoolRecord): string {
  const { use, forecast } = record;
  if (use === null) return 'not known';
  const left = forecast?.daysLeft ?? null;
  const growth = left === null ? '' : `, 85 % in ${formatDuration(left * 86_400_000)}`;
  return `${use.usedPercent} % of ${formatSize(use.sizeBytes)}${growth}`;
}
