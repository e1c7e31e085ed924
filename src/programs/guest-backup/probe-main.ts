import { execFileSync } from 'node:child_process';
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { formatErrorChain } from '#base/error.ts';

/**
 * Looks at a guest from inside a network namespace that holds nothing but the wire to it. The order comes as a line of JSON once the wire is
 * there; the verdict goes as a line of JSON to standard output.
 */
export type ProbeOrder = {
  device: string;
  /** Ours, with prefix length. */
  address: string;
  host: string;
  port: number;
  /** null: whoever listens will do. */
  sql: { user: string; database: string; query: string } | null;
  timeoutMs: number;
};
export type ProbeVerdict = { passed: boolean; because: string; tookMs: number };

const retryMs = 500;
const tryMs = 5_000;

async function tryPort(host: string, port: number): Promise<string> {
  await new Promise<void>((resolve, reject) => {
    const socket = connect({ host, port, timeout: tryMs });
    socket.once('connect', () => {
      socket.destroy();
      resolve();
    });
    socket.once('timeout', () => socket.destroy(new Error('no answer')));
    socket.once('error', reject);
  });
  return `port ${port} answers`;
}

async function trySql(host: string, port: number, { user, database, query }: NonNullable<ProbeOrder['sql']>): Promise<string> {
  const client = new pg.Client({ host, port, user, database, connectionTimeoutMillis: tryMs, query_timeout: tryMs });
  client.on('error', () => {}); // told by the query
  try {
    await client.connect();
    const { rows } = await client.query<Record<string, unknown>>(query);
    if (rows.length === 0) throw new Error('the query gave no row');
    return `the query gave ${JSON.stringify(rows[0])}`;
  } finally {
    await client.end().catch(() => {});
  }
}

async function probe(order: ProbeOrder): Promise<ProbeVerdict> {
  const { device, address, host, port, sql, timeoutMs } = order;
  execFileSync('ip', ['address', 'add', address, 'dev', device]);
  execFileSync('ip', ['link', 'set', 'dev', device, 'up']);
  const startedMs = performance.now();
  let last: unknown = 'nothing was tried';
  while (performance.now() - startedMs < timeoutMs) {
    try {
      const because = sql === null ? await tryPort(host, port) : await trySql(host, port, sql);
      return { passed: true, because, tookMs: Math.round(performance.now() - startedMs) };
    } catch (error) {
      last = error;
    }
    await delay(retryMs);
  }
  const because = `not within ${Math.round(timeoutMs / 1_000)} s: ${formatErrorChain(last)}`;
  return { passed: false, because, tookMs: Math.round(performance.now() - startedMs) };
}

let text = '';
for await (const part of process.stdin) text += String(part);
const verdict = await probe(JSON.parse(text) as ProbeOrder);
process.stdout.write(`${JSON.stringify(verdict)}\n`);
