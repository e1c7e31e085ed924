import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { DbLoadEvent } from '#lab/db-load.ts';
import { labPaths } from '#lab/lab-paths.ts';

/** How long commits of the database took in a span of time, as its client saw them. */
export type Latency = { commits: number; p50Ms: number; p99Ms: number; maxMs: number };

export function readLatency(lab: string, fromMs: number, untilMs: number): Latency {
  const lines = readFileSync(join(labPaths(lab).state, 'rows.jsonl'), 'utf8')
    .trimEnd()
    .split('\n');
  const took = lines
    .map((line) => JSON.parse(line) as DbLoadEvent)
    .flatMap((event) =>
      event.kind === 'ack' && event.sentAtMs >= fromMs && event.sentAtMs <= untilMs ? [event.atMs - event.sentAtMs] : [],
    )
    .toSorted((a, b) => a - b);
  const at = (share: number): number => took[Math.min(took.length - 1, Math.floor(took.length * share))] ?? 0;
  return { commits: took.length, p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1) };
}

export function formatLatency({ commits, p50Ms, p99Ms, maxMs }: Latency): string {
  return `p50 ${p50Ms} ms, p99 ${p99Ms} ms, longest ${maxMs} ms (${commits} commits)`;
}
