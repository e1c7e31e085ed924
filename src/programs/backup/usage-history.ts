import Type from 'typebox';
import { Value } from 'typebox/value';
import { forecastFull, type SpaceSample } from '#core/backup/space-forecast.ts';
import type { Stores } from './stores.ts';
import type { StateFile } from './state-file.ts';

const sampleSchema = Type.Object({ atSeconds: Type.Integer(), usedBytes: Type.Number(), totalBytes: Type.Number() });
const schema = Type.Record(Type.String(), Type.Array(sampleSchema));
/** A month of hours. */
const samplesKept = 720;
const sampleEveryMs = 3_600_000;

export type UsageHistory = {
  /** As the API tells it: fill levels of the past month, newest last, and the time at which the store will be full. */
  history(store: string): Record<string, unknown>;
  sample(): Promise<void>;
  stop(): void;
};

export function readUsageFile(value: unknown): Record<string, SpaceSample[]> {
  return Value.Parse(schema, value);
}

/** Looks once an hour how full the stores are, and keeps it. */
export function startUsageHistory(
  stores: Stores,
  file: StateFile<Record<string, SpaceSample[]>>,
  nowSeconds: () => number,
): UsageHistory {
  let samples = file.read();
  const sample = async (): Promise<void> => {
    const next: Record<string, SpaceSample[]> = {};
    for (const [name, store] of stores) {
      const { totalBytes, availableBytes } = await store.readUsage();
      const now = { atSeconds: Math.floor(nowSeconds()), usedBytes: totalBytes - availableBytes, totalBytes };
      next[name] = [...(samples[name] ?? []), now].slice(-samplesKept);
    }
    samples = next;
    file.write(samples);
  };
  // A disk that cannot be asked, or a state that cannot be written, costs one sample.
  const timer = setInterval(() => void sample().catch(() => {}), sampleEveryMs);
  timer.unref();
  return {
    sample,
    stop: () => clearInterval(timer),
    history(store) {
      const mine = samples[store] ?? [];
      const full = forecastFull(mine);
      return {
        history: mine.map(({ usedBytes, totalBytes }) => usedBytes / totalBytes),
        ...(mine[0] === undefined ? {} : { 'history-start': mine[0].atSeconds, 'history-delta': sampleEveryMs / 1_000 }),
        ...(full === null ? {} : { 'estimated-full-date': full }),
      };
    },
  };
}
