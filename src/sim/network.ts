import type { Dice, Engine } from '#sim/engine.ts';

/** Cuts of the way to the store and of the way between nodes come and go separately. */
export type Layer = 'store' | 'link';

/** Who reaches whom, and how long it takes. A cut has a direction and an end. */
export class Network {
  private readonly cuts = { store: new Map<string, Map<string, number>>(), link: new Map<string, Map<string, number>>() };
  /** From then on nothing is cut, so that the common case costs one comparison. */
  private readonly allOpenAtMs = { store: 0, link: 0 };
  /** Until then packets are lost and come again late: calls take up to a second longer. */
  lossyUntilMs = 0;
  private readonly engine: Engine;
  private readonly dice: Dice;
  private readonly jitterMs: number;

  constructor(engine: Engine, dice: Dice, jitterMs: number) {
    this.engine = engine;
    this.dice = dice;
    this.jitterMs = jitterMs;
  }

  cut(layer: Layer, from: string, to: string, untilMs: number): void {
    const ways = this.cuts[layer].get(from) ?? new Map<string, number>();
    this.cuts[layer].set(from, ways);
    ways.set(to, Math.max(ways.get(to) ?? 0, untilMs));
    this.allOpenAtMs[layer] = Math.max(this.allOpenAtMs[layer], untilMs);
  }

  heal(): void {
    for (const layer of ['store', 'link'] as const) {
      this.cuts[layer].clear();
      this.allOpenAtMs[layer] = 0;
    }
    this.lossyUntilMs = 0;
  }

  isOpen(layer: Layer, from: string, to: string): boolean {
    const { nowMs } = this.engine;
    if (from === to || this.allOpenAtMs[layer] <= nowMs) return true;
    return (this.cuts[layer].get(from)?.get(to) ?? 0) <= nowMs;
  }

  isOpenBoth(layer: Layer, a: string, b: string): boolean {
    return this.isOpen(layer, a, b) && this.isOpen(layer, b, a);
  }

  delayMs(): number {
    const lossy = this.engine.nowMs < this.lossyUntilMs && this.dice.yes(0.3);
    return this.dice.between(0.2, 1 + this.jitterMs) + (lossy ? this.dice.between(200, 1_200) : 0);
  }
}
