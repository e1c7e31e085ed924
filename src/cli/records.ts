import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { parseRecord } from '#core/ha/cluster-snapshot.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { Session } from '#cli/session.ts';

type Reader = Pick<Session, 'store' | 'world'>;

/** Attempts of one compare-and-set before the command gives up: others write the same record at most once a round. */
const changeAttempts = 8;

function callOptions(session: Reader): { deadlineMs: number; signal: AbortSignal } {
  return { deadlineMs: limits.cliStoreCallMs, signal: session.world.signal };
}

/** Reads one record; null when there is none. Raises AppError unavailable/timeout/invalid. */
export async function readRecord<T>(session: Reader, key: string): Promise<T | null> {
  const entry = await session.store.read(key, callOptions(session));
  return entry === null ? null : parseRecord<T>(entry);
}

/** Reads all records under a prefix, in the order of their keys. */
export async function listRecords<T>(session: Reader, prefix: string): Promise<T[]> {
  const { entries } = await session.store.list(prefix, callOptions(session));
  return entries.map((entry) => parseRecord<T>(entry));
}

/**
 * Changes one record by compare-and-set: reads it, asks `change` for the new value (null: delete it; it may raise to refuse),
 * writes it if nobody moved first, else looks again. Returns what was written. `what` names the record for errors.
 * Raises AppError conflict when others keep moving first, and what reading raises.
 */
export async function changeRecord<T>(
  session: Reader,
  key: string,
  what: string,
  change: (current: T | null) => T | null,
): Promise<T | null> {
  for (let attempt = 0; attempt < changeAttempts; attempt += 1) {
    const entry = await session.store.read(key, callOptions(session));
    const next = change(entry === null ? null : parseRecord<T>(entry));
    const value = next === null ? null : JSON.stringify(next);
    // After a lost answer this finds our own write in place; for us that is as good as having been told.
    if (value === (entry?.value ?? null)) return next;
    const outcome = await session.store.commit(
      [{ key, modRevision: entry?.modRevision ?? 0n }],
      [{ key, value }],
      callOptions(session),
    );
    if (outcome.kind === 'committed') return next;
  }
  throw new AppError('conflict', `changing ${what}: somebody else kept changing it (${changeAttempts} attempts); try again`);
}

/** The guest with this number or name. Raises AppError missing with the known ones, conflict when several bear the name. */
export async function findGuest(session: Reader, numberOrName: string): Promise<GuestRecord> {
  return chooseGuest(await listRecords<GuestRecord>(session, prefixes.guests), numberOrName, 'guest');
}

/** As findGuest, among guests already read; `field` names the option that asked. */
export function chooseGuest(guests: GuestRecord[], numberOrName: string, field: string): GuestRecord {
  const found = guests.filter((guest) => String(guest.vmid) === numberOrName || guest.name === numberOrName);
  const exact = found.find((guest) => String(guest.vmid) === numberOrName) ?? found[0];
  if (exact === undefined) {
    const known = guests.map((guest) => `${guest.vmid} ${guest.name}`).join(', ');
    throw new AppError('missing', `${field}: there is no guest ${numberOrName}; known: ${known === '' ? 'none' : known}`);
  }
  if (found.length > 1 && String(exact.vmid) !== numberOrName) {
    const numbers = found.map((guest) => guest.vmid).join(', ');
    throw new AppError('conflict', `${field}: several guests are named ${numberOrName} (${numbers}); use the number`);
  }
  return exact;
}

/** Returns `name` if the cluster knows that node. Raises AppError missing with the known ones. */
export async function findNode(session: Reader, name: string, field = 'node'): Promise<string> {
  const joined = await listNodes(session);
  if (joined.includes(name)) return name;
  throw new AppError('missing', `${field}: there is no node ${name}; known: ${joined.length === 0 ? 'none' : joined.join(', ')}`);
}

/** The nodes of the cluster, in name order. */
export async function listNodes(session: Reader): Promise<string[]> {
  const { entries } = await session.store.list(prefixes.nodes, callOptions(session));
  const names = new Set(entries.map((entry) => entry.key.slice(prefixes.nodes.length).split('/')[0] ?? ''));
  // A controller may be written for a node that never joined; only a node that told about itself counts.
  return [...names].filter((node) =>
    entries.some((entry) => entry.key === keys.nodeInfo(node) || entry.key === keys.nodePermit(node)),
  );
}
