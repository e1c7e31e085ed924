import { setTimeout as delay } from 'node:timers/promises';
import { createEtcdStore } from '#adapters/etcd/etcd-store.ts';
import { AppError, isAppError } from '#base/error.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaSettings } from '#core/ha/records.ts';
import { formatRequest, type RequestOrder, requestId, type RequestRecord } from '#core/ha/requests.ts';
import { labContext } from '#lab/lab.ts';
import type { Store, StoreHealth } from '#ports/store.ts';

/** The lab's cluster as a drill sees it: only inside the client namespace. */
export type DrillStore = Store & StoreHealth & AsyncDisposable;

export function openDrillStore(lab: string): DrillStore {
  const { endpoints, tls } = labContext(lab);
  return createEtcdStore({ endpoints, tls });
}

/** Looks every `everyMs` until `look` returns something; raises AppError timeout saying what was waited for and what was seen last. */
export async function waitUntil<T>(
  what: string,
  deadlineMs: number,
  look: () => Promise<T | null | undefined | false>,
  everyMs = 100,
): Promise<T> {
  const giveUpAtMs = performance.now() + deadlineMs;
  let trouble: unknown;
  for (;;) {
    try {
      const found = await look();
      if (found !== null && found !== undefined && found !== false) return found;
      trouble = undefined;
    } catch (error) {
      // The store has pauses while members die; that is what drills are about.
      if (!isAppError(error, 'unavailable', 'timeout')) throw error;
      trouble = error;
    }
    if (performance.now() > giveUpAtMs)
      throw new AppError('timeout', `waited ${deadlineMs / 1000} s for: ${what}`, { cause: trouble });
    await delay(everyMs);
  }
}

export async function readValue<T>(store: Store, key: string): Promise<T | null> {
  const entry = await store.read(key);
  return entry === null ? null : (JSON.parse(entry.value) as T);
}

export async function listValues<T>(store: Store, prefix: string): Promise<T[]> {
  return (await store.list(prefix)).entries.map((entry) => JSON.parse(entry.value) as T);
}

/** Changes one record by compare-and-set, a few times if somebody else moves first. Returns what was written. */
export async function changeValue<T>(store: Store, key: string, change: (now: T | null) => T): Promise<T> {
  for (let attempt = 0; attempt < 20; attempt += 1) {
    try {
      const entry = await store.read(key);
      const next = change(entry === null ? null : (JSON.parse(entry.value) as T));
      const outcome = await store.commit(
        [{ key, modRevision: entry?.modRevision ?? 0n }],
        [{ key, value: JSON.stringify(next) }],
      );
      if (outcome.kind === 'committed') return next;
    } catch (error) {
      if (!isAppError(error, 'unavailable', 'timeout')) throw error;
    }
    await delay(100);
  }
  throw new AppError('conflict', `changing ${key}: twenty attempts met another writer or no store`);
}

/** A drill takes the same nodes' power again and again; that is no reason to keep guests away from them. */
export async function switchQuarantineOff(store: Store): Promise<void> {
  await changeValue<HaSettings>(store, keys.haSettings, (now) => ({ ...now, quarantineAfter: 0 }));
}

/** Asks an agent for work through the store and waits for its end. */
export async function performWork(store: Store, node: string, order: RequestOrder, deadlineMs: number): Promise<string[]> {
  const id = requestId(Date.now(), Math.random().toString(36).slice(2, 10));
  const request: RequestRecord = { id, node, createdAtMs: Date.now(), ...order, state: 'waiting' };
  await changeValue<RequestRecord>(store, keys.request(id), () => request);
  const what = `${node} to ${formatRequest(order)}`;
  const end = await waitUntil(what, deadlineMs, async () => {
    const now = await readValue<RequestRecord>(store, keys.request(id));
    if (now === null) throw new AppError('conflict', `waiting for ${what}: the request is gone`);
    return now.state === 'done' || now.state === 'failed' ? now : null;
  });
  if (end.state === 'failed') throw new AppError(end.error.kind, `${what}: ${end.error.message}`);
  return end.state === 'done' ? end.result : [];
}
