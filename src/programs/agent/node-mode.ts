import { AppError, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { NodeEnding } from '#core/guest/guest-plan.ts';
import { keys } from '#core/ha/keys.ts';
import type { AgentMode } from '#core/ha/manager/facts.ts';
import { endingOf } from '#core/ha/node-end.ts';
import type { AgentRecord } from '#core/ha/records.ts';
import type { Clock } from '#ports/clock.ts';
import type { Store } from '#ports/store.ts';
import { readRecord, writeOwnedRecord } from '#programs/agent/world.ts';

/** What this agent says of itself in its record, and what that means for the guests here. */
export type NodeMode = {
  /** Takes up what an earlier agent said in this boot; says `active` otherwise. Asks until the store answers. */
  load(signal: AbortSignal): Promise<void>;
  /** Nothing may be started before. */
  isLoaded(): boolean;
  /** Returns once it is loaded. Raises AppError busy when the store has not answered in time. */
  untilLoaded(): Promise<void>;
  mode(): AgentMode;
  ending(): NodeEnding | null;
  /** Says it and holds to it from then on. Raises AppError when the store does not take it; then all is as it was. */
  set(mode: AgentMode, because: string): Promise<void>;
  /** Says again what holds, after a `set` that nobody knows the end of: what it wrote may be in the record, or come there yet. Raises AppError. */
  assure(): Promise<void>;
};

export type NodeModeOptions = { self: string; bootId: string; store: Store; clock: Clock; onChange: () => void };

export function createNodeMode(options: NodeModeOptions): NodeMode {
  const { self, bootId, store, clock } = options;
  const key = keys.nodeAgent(self);
  let mode: AgentMode | null = null;
  let isUnsure = false;
  let last: Promise<void> | null = null;

  /** One after the other, at once when nobody is before: each goes back to what held before it, and nobody else's change may lie in between. */
  async function inTurn(work: () => Promise<void>): Promise<void> {
    const mine = last === null ? work() : last.then(work);
    const settled: Promise<void> = mine
      .catch(() => {}) // told to whoever asked
      .then(() => void (last === settled && (last = null)));
    last = settled;
    await mine;
  }

  async function write(next: AgentMode, because: string): Promise<void> {
    const record: AgentRecord = { mode: next, bootId, because, atMs: clock.wallMs() };
    await writeOwnedRecord(store, key, record);
  }

  async function tryToLoad(): Promise<AgentMode> {
    const known = (await readRecord<AgentRecord>(store, key))?.value;
    if (known?.bootId === bootId) return known.mode;
    await write('active', 'its agent has started');
    return 'active';
  }

  const notLoaded = () => new AppError('busy', `${self} has just started, and the store does not answer it yet; try again`);

  return {
    async load(signal) {
      while (!signal.aborted && mode === null) {
        try {
          mode = await tryToLoad();
        } catch (error) {
          if (!isAppError(error)) throw error;
          await new Promise((resolve) => setTimeout(resolve, limits.etcdCallMs));
        }
      }
      options.onChange();
    },
    isLoaded: () => mode !== null,
    async untilLoaded() {
      const untilBootMs = clock.bootMs() + limits.storeStartMs;
      while (mode === null && clock.bootMs() < untilBootMs)
        await new Promise((resolve) => setTimeout(resolve, limits.nodeEndLookMs));
      if (mode === null) throw notLoaded();
    },
    mode: () => mode ?? 'active',
    ending: () => (mode === null ? null : endingOf(mode)),
    set: (next, because) =>
      inTurn(async () => {
        const before = mode;
        if (before === null) throw notLoaded();
        // A node that is to end starts nothing more from this instant; one that stays has said so before it starts anything.
        if (endingOf(next) !== null) mode = next;
        try {
          await write(next, because);
          mode = next;
          isUnsure = false;
        } catch (error) {
          mode = before;
          isUnsure = true;
          throw error;
        } finally {
          options.onChange();
        }
      }),
    async assure() {
      if (!isUnsure) return;
      await inTurn(async () => {
        if (mode === null || !isUnsure) return;
        // Once this is in the record, what came before it conflicts.
        await write(mode, 'what was asked last was not taken');
        isUnsure = false;
      });
    },
  };
}
