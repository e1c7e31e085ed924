import { formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { followGuardState, type GuardLocalState } from '#programs/local-state.ts';

/**
 * What the guard says in guard.json, looked at a few times a second. The file only informs: that a guest cannot run outside a
 * granted epoch is held by the kernel (the epoch's cgroup), not by this reading.
 */
export type GuardWatch = {
  /** The epoch under which guests may be started now; null: the guard does not serve at the moment. */
  epoch(): number | null;
  state(): GuardLocalState | null;
  run(signal: AbortSignal): Promise<void>;
};

export type GuardWatchOptions = {
  runDir: string;
  /** Phase, epoch or problems changed. */
  onChange: (state: GuardLocalState) => void;
  /** The guests were thawed: their clocks are behind. */
  onThaw: () => void;
  /** The permit is lost: whatever ports of HA guests are left must go off the bridges. */
  onClear: () => void;
  onTrouble: (text: string) => void;
};

export function followGuard(options: GuardWatchOptions): GuardWatch {
  let current: GuardLocalState | null = null;
  const read = followGuardState(options.runDir);
  const look = () => {
    const before = current;
    try {
      current = read();
    } catch (error) {
      options.onTrouble(`guard.json: ${formatErrorChain(error)}`);
      current = null;
    }
    if (current === null || current === before || JSON.stringify(before) === JSON.stringify(current)) return;
    options.onChange(current);
    if (before !== null && current.thawedBootMs !== null && current.thawedBootMs !== before.thawedBootMs) options.onThaw();
    const clears = current.phase === 'clearing' || current.phase === 'releasing';
    if (clears && before?.phase !== current.phase) options.onClear();
  };
  look();
  return {
    epoch: () => (current?.phase === 'serving' ? current.epoch : null),
    state: () => current,
    async run(signal) {
      while (!signal.aborted) {
        look();
        await new Promise<void>((resolve) => setTimeout(resolve, limits.guardLookMs));
      }
    },
  };
}
