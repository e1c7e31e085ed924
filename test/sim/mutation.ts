import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import { type Rules, shippedRules } from '#sim/rules.ts';
import { runSeed } from '#sim/simulation.ts';
import { chooseSwarm, type FaultKind, type Swarm, type Unsafe } from '#sim/swarm.ts';

/**
 * Each rule that is broken on purpose must be caught by an invariant that it stands for, within the stated number of seeds. A checker that
 * never bites is worth nothing.
 */
export type Mutation = {
  what: string;
  /** Each of these has to catch it by itself, with all others silenced. */
  caughtAs: string[];
  seeds: number;
  /** First seed; 1 when left out. */
  from?: number;
  rules?: Partial<Rules>;
  faults: FaultKind[];
  /** Left out: rounds of chaos in a cluster of two guests whose people have set nothing. */
  swarm?: Partial<Swarm>;
  unsafe?: Partial<Unsafe>;
};

/** A seed that has not been caught by then is given up. */
const hoursEach = 0.5;

/** One test for each mutation and invariant. */
export function testMutations(mutations: readonly Mutation[]): void {
  for (const mutation of mutations) {
    for (const invariant of mutation.caughtAs) {
      test(`${mutation.what}: ${invariant} catches it within ${mutation.seeds} seeds`, (t) => {
        t.diagnostic(findCatch(mutation, invariant));
      });
    }
  }
}

function findCatch({ seeds, from = 1, faults, swarm, unsafe, rules }: Mutation, invariant: string): string {
  for (let seed = from; seed < from + seeds; seed += 1) {
    const chosen: Swarm = { ...chooseSwarm(seed), faults, guests: 2, rounds: ['chaos'], settings: null };
    const { violation } = runSeed({
      seed,
      hours: hoursEach,
      swarm: { ...chosen, ...swarm, unsafe: { ...chosen.unsafe, ...unsafe } },
      rules: { ...shippedRules, ...rules },
      only: new Set([invariant]),
    });
    if (violation !== null) return `seed ${seed}: ${violation.text}`;
  }
  return assert.fail(`${invariant} was never broken in ${seeds} seeds`);
}
