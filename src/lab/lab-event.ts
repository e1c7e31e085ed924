import { appendFileSync, readFileSync } from 'node:fs';
import { labPaths } from '#lab/lab-paths.ts';

/** Who took or gave a node's power. `crash`: the node's own first process ended; the machine stands still until somebody resets it. */
export type PowerCause = 'start' | 'plug' | 'watchdog' | 'bmc' | 'crash' | 'down';

/**
 * What the room itself saw, with the wall clock of this host: the observed truth that tests measure against. `atMs` of a power
 * loss was read before the kill was issued.
 */
export type LabEvent = { atMs: number } & (
  | { event: 'power-on'; node: string; by: PowerCause | 'reboot'; bootId: string }
  | { event: 'system-up'; node: string; bootId: string }
  | { event: 'power-off'; node: string; by: PowerCause; killTookMs: number | null; emptyAfterMs: number | null }
  | { event: 'boot-failed'; node: string; text: string }
  | { event: 'watchdog-armed'; node: string; timeoutMs: number }
  | { event: 'watchdog-disarmed'; node: string }
  | { event: 'watchdog-fired'; node: string; timeoutMs: number; lastPetAtMs: number; lateMs: number; killTookMs: number }
  | { event: 'watchdog-late'; node: string; lateMs: number }
  | { event: 'service-started'; node: string; service: string; count: number }
  | { event: 'service-exited'; node: string; service: string; code: number | null; signal: string | null }
  | { event: 'controller-on' | 'controller-off'; node: string }
  | { event: 'controller-order'; node: string; power: 'on' | 'off' }
  | { event: 'link'; node: string; state: string }
  | { event: 'switch'; power: 'on' | 'off' }
  | { event: 'signal'; node: string; service: string; signal: string }
  | { event: 'room-up' | 'room-down'; because: string }
);

/** LabEvent as one part of the room writes it, before the node and the time are added where they are missing. */
export type EventSink = (event: LabEvent) => void;

/** Appends one event to the lab's list. */
export function appendLabEvent(name: string, event: LabEvent): void {
  appendFileSync(labPaths(name).events, `${JSON.stringify(event)}\n`);
}

/** All events of a lab so far, oldest first; none when the lab does not exist. */
export function readLabEvents(name: string): LabEvent[] {
  let text: string;
  try {
    text = readFileSync(labPaths(name).events, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
  // The last line may be half written by the room at this moment: then it does not end in a line feed and is left for next time.
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as LabEvent);
}
