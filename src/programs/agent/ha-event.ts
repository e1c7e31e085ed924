import { keys } from '#core/ha/keys.ts';
import type { HaEvent } from '#core/ha/records.ts';
import type { Write } from '#ports/store.ts';

let eventCounter = 0;

/** An event with an id that sorts by time, and the write that records it. */
export function newEvent(event: Omit<HaEvent, 'id' | 'atMs'>): { event: HaEvent; write: Write } {
  const atMs = Date.now();
  eventCounter = (eventCounter + 1) % 1000;
  const id = `${String(atMs).padStart(14, '0')}-${String(eventCounter).padStart(3, '0')}-${event.node}`;
  const full: HaEvent = { id, atMs, ...event };
  return { event: full, write: { key: keys.haEvent(id), value: JSON.stringify(full) } };
}
