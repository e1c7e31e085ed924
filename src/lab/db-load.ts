import { closeSync, openSync, writeSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { AppError, formatErrorChain } from '#base/error.ts';
import { connectDb, type DbAddress, type DbConnection } from '#lab/db-load-connection.ts';
import { dbLoadLimits } from '#lab/db-load-limits.ts';
import { judgeRows, type RowVerdict } from '#lab/db-load-rows.ts';

/**
 * A client that commits numbered rows at a steady rate, one transaction after the other, and writes down every acknowledgement.
 *
 *   connecting ──first answer──▶ first commit ──▶ loading ──failure──▶ reconnecting ──first answer──▶ …
 *
 * A number is used once: what was sent without an answer is never sent again, so every row present or missing afterwards means one thing.
 */
export type DbLoadOptions = DbAddress & {
  /** Every event is appended here, one JSON line each. */
  file: string;
  /** Rows a second, at most: each transaction waits for the one before. */
  rate: number;
  /** Rows in one transaction. */
  batch: number;
};

/** One line of the file. Times are wall clock. */
export type DbLoadEvent =
  | { kind: 'ack'; from: number; to: number; sentAtMs: number; atMs: number }
  | { kind: 'unanswered'; from: number; to: number; sentAtMs: number; atMs: number; because: string }
  | { kind: 'lost-connection'; atMs: number; lastAckAtMs: number | null; because: string }
  | { kind: 'answering'; atMs: number; attempts: number; maxId: number }
  | { kind: 'committing'; atMs: number; id: number };

/** A time without service, as this client saw it. */
export type DbOutage = {
  lastAckAtMs: number | null;
  /** Largest row number that was acknowledged before it; null: none was. */
  lastAckId: number | null;
  noticedAtMs: number;
  because: string;
  attempts: number;
  /** First query answered, and the largest row number it found; null: not yet. */
  answeringAtMs: number | null;
  maxIdFound: number | null;
  /** First row committed again. */
  committingAtMs: number | null;
};

export type DbLoadState = {
  phase: 'connecting' | 'loading' | 'reconnecting';
  rowsCommitted: number;
  lastAckAtMs: number | null;
  outages: DbOutage[];
};

export type DbLoadReport = RowVerdict & {
  firstId: number;
  lastId: number;
  startedAtMs: number | null;
  outages: DbOutage[];
  /** From the acknowledgement of the oldest lost row to the last acknowledgement before that outage; 0: nothing lost. */
  lostSpanMs: number;
  commitMs: { p50: number; p99: number; max: number };
};

export type DbLoad = {
  state(): DbLoadState;
  /** Ends the load, reads everything back and says what became of it; asked again, says the same. Raises AppError timeout when the database cannot be read. */
  stop(): Promise<DbLoadReport>;
};

type Book = {
  acknowledged: Map<number, number>;
  tookMs: number[];
  firstId: number;
  nextId: number;
  startedAtMs: number | null;
  lastAckAtMs: number | null;
  lastAckId: number | null;
  outages: DbOutage[];
  phase: DbLoadState['phase'];
  write: (event: DbLoadEvent) => void;
};

/** Starts the load; it connects, and reconnects, by itself. */
export function startDbLoad(options: DbLoadOptions): DbLoad {
  const file = openSync(options.file, 'a', 0o644);
  const book: Book = {
    acknowledged: new Map(),
    tookMs: [],
    firstId: 0,
    nextId: 0,
    startedAtMs: null,
    lastAckAtMs: null,
    lastAckId: null,
    outages: [],
    phase: 'connecting',
    write: (event) => void writeSync(file, `${JSON.stringify(event)}\n`),
  };
  const stopping = new AbortController();
  const ended = loadUntil(stopping.signal, options, book);
  let report: Promise<DbLoadReport> | null = null;
  const stop = async (): Promise<DbLoadReport> => {
    stopping.abort();
    await ended;
    try {
      return await verify(options, book);
    } finally {
      closeSync(file);
    }
  };
  const { acknowledged, outages } = book;
  return {
    state: () => ({ phase: book.phase, rowsCommitted: acknowledged.size, lastAckAtMs: book.lastAckAtMs, outages }),
    stop: () => (report ??= stop()),
  };
}

async function loadUntil(signal: AbortSignal, options: DbLoadOptions, book: Book): Promise<void> {
  while (!signal.aborted) {
    const connection = await connectUntil(signal, options, book);
    if (connection === null) return;
    try {
      await load(signal, connection, options, book);
    } catch (error) {
      const because = formatErrorChain(error);
      const atMs = Date.now();
      book.write({ kind: 'lost-connection', atMs, lastAckAtMs: book.lastAckAtMs, because });
      const nothingYet = { attempts: 0, answeringAtMs: null, maxIdFound: null, committingAtMs: null };
      const { lastAckAtMs, lastAckId } = book;
      book.outages.push({ lastAckAtMs, lastAckId, noticedAtMs: atMs, because, ...nothingYet });
      book.phase = 'reconnecting';
    } finally {
      connection.close();
    }
  }
}

/** Tries until the database answers a first query; null when stopped meanwhile. */
async function connectUntil(signal: AbortSignal, options: DbLoadOptions, book: Book): Promise<DbConnection | null> {
  for (let attempts = 1; !signal.aborted; attempts += 1) {
    const connection = await connectDb(options).catch(() => null);
    const maxId = await connection?.readMaxId().catch(() => null);
    const outage = book.outages.at(-1);
    if (outage !== undefined) outage.attempts = attempts;
    if (connection !== null && typeof maxId === 'number') {
      noteAnswer(book, attempts, maxId);
      return connection;
    }
    connection?.close();
    await delay(dbLoadLimits.retryMs);
  }
  return null;
}

function noteAnswer(book: Book, attempts: number, maxId: number): void {
  const atMs = Date.now();
  book.write({ kind: 'answering', atMs, attempts, maxId });
  if (book.nextId === 0) {
    book.firstId = maxId + 1;
    book.nextId = book.firstId;
  }
  const outage = book.outages.at(-1);
  if (outage !== undefined && outage.answeringAtMs === null) {
    outage.answeringAtMs = atMs;
    outage.maxIdFound = maxId;
  }
}

async function load(signal: AbortSignal, connection: DbConnection, options: DbLoadOptions, book: Book): Promise<void> {
  const everyMs = (1_000 * options.batch) / options.rate;
  let dueMs = performance.now();
  for (let first = true; !signal.aborted; first = false) {
    await commitBatch(connection, options.batch, book);
    if (first) noteCommit(book);
    // Late transactions are not made up for: a burst after each pause would be a load nobody asked for.
    dueMs = Math.max(dueMs + everyMs, performance.now() - everyMs);
    const waitMs = dueMs - performance.now();
    if (waitMs > 0) await delay(waitMs);
  }
}

async function commitBatch(connection: DbConnection, batch: number, book: Book): Promise<void> {
  const from = book.nextId;
  const to = from + batch - 1;
  book.nextId = to + 1;
  const ids = Array.from({ length: batch }, (_, i) => from + i);
  const sentAtMs = Date.now();
  const sentMonoMs = performance.now();
  try {
    await connection.insert(ids);
  } catch (error) {
    book.write({ kind: 'unanswered', from, to, sentAtMs, atMs: Date.now(), because: formatErrorChain(error) });
    throw error;
  }
  book.tookMs.push(performance.now() - sentMonoMs);
  book.lastAckAtMs = Date.now();
  book.lastAckId = to;
  for (const id of ids) book.acknowledged.set(id, book.lastAckAtMs);
  book.write({ kind: 'ack', from, to, sentAtMs, atMs: book.lastAckAtMs });
}

function noteCommit(book: Book): void {
  const atMs = book.lastAckAtMs ?? Date.now();
  book.phase = 'loading';
  book.startedAtMs ??= atMs;
  book.write({ kind: 'committing', atMs, id: book.nextId - 1 });
  const outage = book.outages.at(-1);
  if (outage !== undefined && outage.committingAtMs === null) outage.committingAtMs = atMs;
}

async function verify(options: DbLoadOptions, book: Book): Promise<DbLoadReport> {
  const present = await readBack(options, book);
  const sent = Array.from({ length: book.nextId - book.firstId }, (_, i) => book.firstId + i);
  const verdict = judgeRows(sent, new Set(book.acknowledged.keys()), present);
  const { firstId, startedAtMs, outages } = book;
  return {
    ...verdict,
    firstId,
    lastId: book.nextId - 1,
    startedAtMs,
    outages,
    lostSpanMs: lostSpan(verdict, book),
    commitMs: spread(book.tookMs),
  };
}

async function readBack(options: DbLoadOptions, book: Book): Promise<Map<number, string>> {
  const giveUpMs = performance.now() + dbLoadLimits.verifyMs;
  const present = new Map<number, string>();
  let from = book.firstId;
  let trouble: unknown;
  while (from < book.nextId) {
    if (performance.now() > giveUpMs) {
      throw new AppError('timeout', `reading the rows back from ${options.host}: not done after ${dbLoadLimits.verifyMs} ms`, {
        cause: trouble,
      });
    }
    const connection = await connectDb(options).catch((error: unknown) => void (trouble = error));
    try {
      while (connection !== undefined && from < book.nextId) {
        const to = Math.min(from + dbLoadLimits.verifyRows, book.nextId) - 1;
        for (const [id, payload] of await connection.readRows(from, to)) present.set(id, payload);
        from = to + 1;
      }
    } catch (error) {
      trouble = error;
    } finally {
      connection?.close();
    }
    if (from < book.nextId) await delay(dbLoadLimits.retryMs);
  }
  return present;
}

/** How much of the past is gone: from the oldest lost acknowledgement to the last one before the outage that lost it. */
function lostSpan(verdict: RowVerdict, book: Book): number {
  const oldestAtMs = book.acknowledged.get(verdict.lost[0]?.from ?? -1);
  if (oldestAtMs === undefined) return 0;
  const outage = book.outages.find(({ lastAckAtMs }) => lastAckAtMs !== null && lastAckAtMs >= oldestAtMs);
  return Math.max(0, (outage?.lastAckAtMs ?? book.lastAckAtMs ?? oldestAtMs) - oldestAtMs);
}

function spread(values: number[]): { p50: number; p99: number; max: number } {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number) =>
    Math.round((sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0) * 10) / 10;
  return { p50: at(0.5), p99: at(0.99), max: at(1) };
}
