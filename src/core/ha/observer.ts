import type { Heartbeat } from '#core/ha/records.ts';

/**
 * Warm timers: every node watches every heartbeat and keeps its own time of last sight, so that a new manager starts with
 * timers that already run.
 *
 *   heartbeat seen ──> lastSight = now          silence = now - lastSight, but only while the observer's
 *   own gap too long ─> every timer starts anew  own renewals succeed; otherwise it is `own-gap`
 *
 * Silence counts only while the observer itself has quorum: otherwise a switch that reboots would end with the first node back
 * claiming all the others. Safety does not rest on this (the claim's compare-and-set does that); peace does.
 */
export type Sight = { heartbeat: Heartbeat; modRevision: bigint; lastSightBootMs: number };

export type Observer = {
  self: string;
  /** A gap in the observer's own heartbeats longer than this restarts every timer. */
  restartGapMs: number;
  nodes: Readonly<Record<string, Sight>>;
};

export type Silence =
  | { kind: 'counted'; silentMs: number }
  /** The observer has no quorum of its own at the moment: nothing may be concluded. */
  | { kind: 'own-gap'; gapMs: number }
  /** This node's heartbeat has never been seen by this observer. */
  | { kind: 'never-seen' };

/** An observer that has seen nothing yet. `softMs` is the profile's soft limit. */
export function createObserver(self: string, softMs: number): Observer {
  return { self, restartGapMs: Math.round((softMs * 2) / 3), nodes: {} };
}

/** Takes in one heartbeat as it was read; a heartbeat already seen (same modRevision) changes nothing. */
export function observeHeartbeat(
  observer: Observer,
  node: string,
  heartbeat: Heartbeat,
  modRevision: bigint,
  nowBootMs: number,
): Observer {
  const known = observer.nodes[node];
  if (known !== undefined && known.modRevision >= modRevision) return observer;
  const sight: Sight = { heartbeat, modRevision, lastSightBootMs: nowBootMs };
  const nodes = { ...observer.nodes, [node]: sight };
  if (node !== observer.self || known === undefined) return { ...observer, nodes };
  const ownGapMs = nowBootMs - known.lastSightBootMs;
  return { ...observer, nodes: ownGapMs > observer.restartGapMs ? restartTimers(nodes, nowBootMs) : nodes };
}

/** How long `node` has been silent, as far as this observer may say. */
export function silenceOf(observer: Observer, node: string, nowBootMs: number): Silence {
  const own = observer.nodes[observer.self];
  if (own === undefined) return { kind: 'own-gap', gapMs: 0 };
  const gapMs = nowBootMs - own.lastSightBootMs;
  if (gapMs > observer.restartGapMs) return { kind: 'own-gap', gapMs };
  const sight = observer.nodes[node];
  if (sight === undefined) return { kind: 'never-seen' };
  return { kind: 'counted', silentMs: nowBootMs - sight.lastSightBootMs };
}

function restartTimers(nodes: Record<string, Sight>, nowBootMs: number): Record<string, Sight> {
  return Object.fromEntries(Object.entries(nodes).map(([name, sight]) => [name, { ...sight, lastSightBootMs: nowBootMs }]));
}
