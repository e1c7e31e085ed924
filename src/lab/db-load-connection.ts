import { Socket } from 'node:net';
import pg from 'pg';
import { AppError } from '#base/error.ts';
import { dbLoadLimits } from '#lab/db-load-limits.ts';
import { makePayload } from '#lab/db-load-rows.ts';

export type DbAddress = { host: string; port: number; user: string; database: string; table: string };

/** One connection to the database. Every call has a deadline; after any failure the connection is of no further use. */
export type DbConnection = {
  /** Largest row number there; 0: none. */
  readMaxId(): Promise<number>;
  /** Commits these rows in one transaction; returns when the server acknowledged it. */
  insert(ids: number[]): Promise<void>;
  /** Payload by row number of the rows `from` to `to`, inclusive. */
  readRows(from: number, to: number): Promise<Map<number, string>>;
  close(): void;
};

/**
 * Connects once. Two deadlines: a short one for the guest's kernel to accept, so that an absent guest is asked again soon, and a longer one for
 * the server behind it. Raises AppError unavailable.
 */
export async function connectDb(address: DbAddress): Promise<DbConnection> {
  const socket = new Socket();
  const giveUp = setTimeout(
    () => socket.destroy(new Error(`no answer from its kernel after ${dbLoadLimits.connectMs} ms`)),
    dbLoadLimits.connectMs,
  );
  socket.once('connect', () => clearTimeout(giveUp));
  const { host, port, user, database } = address;
  const client = new pg.Client({
    host,
    port,
    user,
    database,
    stream: () => socket,
    connectionTimeoutMillis: dbLoadLimits.handshakeMs,
    query_timeout: dbLoadLimits.queryMs,
  });
  // Trouble between two queries also arrives here; the next query then fails and tells it.
  client.on('error', () => {});
  try {
    await client.connect();
  } catch (cause) {
    socket.destroy();
    throw new AppError('unavailable', `connecting to the database at ${host}:${port}`, { cause });
  } finally {
    clearTimeout(giveUp);
  }
  return wrapClient(client, socket, address.table);
}

function wrapClient(client: pg.Client, socket: Socket, table: string): DbConnection {
  const name = client.escapeIdentifier(table);
  return {
    async readMaxId() {
      const { rows } = await client.query<{ max: string | null }>(`select max(id) from ${name}`);
      return Number(rows[0]?.max ?? 0);
    },
    async insert(ids) {
      const values = [ids, ids.map(makePayload)];
      await client.query(`insert into ${name} (id, payload) select * from unnest($1::bigint[], $2::text[])`, values);
    },
    async readRows(from, to) {
      const text = `select id, payload from ${name} where id between $1 and $2`;
      const { rows } = await client.query<{ id: string; payload: string }>(text, [from, to]);
      return new Map(rows.map((row) => [Number(row.id), row.payload]));
    },
    close() {
      // Not `end`: it says good-bye to a peer that may be gone and waits.
      client.removeAllListeners();
      client.on('error', () => {});
      socket.destroy();
    },
  };
}
