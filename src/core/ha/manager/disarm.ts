import type { Disarm, GuestEntry } from '#core/ha/manager/memory.ts';
import { type RoundDraft, enter } from '#core/ha/manager/draft.ts';

/** Nothing is guarded, started, stopped or moved. */
export function isInForce(disarm: Disarm | null): boolean {
  return disarm !== null && disarm.stage !== 'waiting';
}

/**
 * Disarmed: no watchdog, no fencing, nobody is recovered. For work on the network or the store.
 *
 *   accepted ──> waiting: until nothing is fenced, recovered, moved or on its first start after a recovery
 *            ──> in-force: `hold` freezes every guest, `hands-off` leaves them; agents close their watchdogs
 *            ──> complete: all agents that are up have closed theirs ──> armed again by an operator
 *
 * While it waits the manager works on in full: a recovery that has begun is brought to its end, or its guest would stay down until
 * someone arms again.
 *
 * Returns true when the round ends here.
 */
export function planDisarm(draft: RoundDraft): boolean {
  const { disarm } = draft;
  if (disarm === null) return false;
  if (disarm.stage === 'waiting') {
    // Guests' records are many, so the commit cannot compare them all: what they say must be known to be the newest.
    if (draft.facts.isCurrent === false || findUnfinished(draft) !== null) return false;
    draft.disarm = { ...disarm, stage: 'in-force' };
    for (const node of draft.facts.nodes) draft.unguarded.add(node.name);
    draft.decisions.push({ kind: 'disarm', stage: 'in-force', because: 'nothing is being recovered or moved' });
  } else if (disarm.stage === 'in-force' && allAgentsLetGo(draft)) {
    draft.disarm = { ...disarm, stage: 'complete' };
    draft.decisions.push({ kind: 'disarm', stage: 'complete', because: 'every agent that is up has closed its watchdog' });
  }
  if (disarm.mode === 'hold') freezeAll(draft);
  return true;
}

function findUnfinished(draft: RoundDraft): string | null {
  for (const [id, entry] of draft.guests) if (isUnfinished(draft, entry)) return id;
  return null;
}

function isUnfinished(draft: RoundDraft, { state, node, command }: GuestEntry): boolean {
  if (command !== null) return true;
  switch (state.kind) {
    case 'start-requested-elsewhere':
    case 'moving-live':
    case 'moving-cold':
    case 'awaiting-fence':
    case 'awaiting-recovery':
      return true;
    case 'active':
      return state.recovered && draft.nodes.get(node) === 'up';
    case 'start-requested':
    case 'stop-requested':
    case 'inactive':
    case 'frozen':
    case 'failed':
      return false;
  }
}

function allAgentsLetGo(draft: RoundDraft): boolean {
  return draft.facts.nodes.every((node) => draft.nodes.get(node.name) !== 'up' || !node.watchdogOpen);
}

function freezeAll(draft: RoundDraft): void {
  for (const [id, { state }] of draft.guests) {
    // One that was never started is as good as frozen, and asks the rules where to start once armed.
    if (state.kind === 'start-requested' && draft.facts.settings.refusesForbiddenMoves) continue;
    if (state.kind !== 'frozen' && state.kind !== 'failed') enter(draft, id, { kind: 'frozen' }, 'disarmed: hold');
  }
}
