import type { Dice, Engine } from '#sim/engine.ts';

/** Cuts of the way to the store and of the way between nodes come and go separately. */
export type Layer = 'store' | 'link';

/** Who reaches whom, and how long it takes. A cut has a direction and an end. */
export class Network {
  private readonly cuts = new Map<string, number>();
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
    const key = `${layer} ${from} ${to}`;
    this.cuts.set(key, Math.max(this.cuts.get(key) ?? 0, untilMs));
  }

  heal(): void {
    this.cuts.clear();
    this.lossyUntilMs = 0;
  }

  isOpen(layer: Layer, from: string, to: string): boolean {
    return from === to || (this.cuts.get(`${layer} ${from} ${to}`) ?? 0) <= this.engine.nowMs;
  }

  isOpenBoth(layer: Layer, a: string, b: string): boolean {
    return this.isOpen(layer, a, b) && this.isOpen(layer, b, a);
  }

  delayMs(): number {
    const lossy = this.engine.nowMs < this.lossyUntilMs && this.dice.yes(0.3);
    return this.dice.between(0.2, 1 + this.jitterMs) + (lossy ? this.dice.between(200, 1_200) : 0);
  }
}
