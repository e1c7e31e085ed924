import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type Candidate,
  chooseBruteForce,
  chooseByTopsis,
  imbalanceOf,
  type NodeShare,
} from '#core/ha/manager/rebalance-choice.ts';

function share(cpu: number, memory = cpu): NodeShare {
  return { cpu, memory };
}

function candidate(guest: string, source: number, target: number, load: number): Candidate {
  return { guest, source, target, to: `n${target}`, leaves: share(load), arrives: share(load) };
}

test('imbalance is the standard deviation over the mean, not normalised for the number of nodes', () => {
  assert.equal(imbalanceOf([share(1), share(0), share(0)]).toFixed(4), Math.SQRT2.toFixed(4));
  assert.equal(imbalanceOf([share(0.5), share(0.5)]), 0);
  assert.equal(imbalanceOf([share(0), share(0)]), 0);
});

test('the corrected sums agree with sums made anew, whatever the move', () => {
  const shares = [share(0.9, 0.3), share(0.1, 0.2), share(0.4, 0.7)];
  for (const move of [candidate('1', 0, 1, 0.25), candidate('1', 2, 1, 0.4), candidate('1', 0, 2, 0.01)]) {
    const after = shares.map(({ cpu, memory }, index) => {
      const change = (index === move.target ? move.arrives.cpu : 0) - (index === move.source ? move.leaves.cpu : 0);
      return { cpu: cpu + change, memory: memory + change };
    });
    assert.ok(Math.abs((chooseBruteForce(shares, [move])?.imbalance ?? -1) - imbalanceOf(after)) < 1e-12);
  }
});

test('the move with the lowest imbalance wins, the first of equals', () => {
  const shares = [share(0.8), share(0.2), share(0.2)];
  const moves = [candidate('1', 0, 1, 0.05), candidate('2', 0, 1, 0.2), candidate('2', 0, 2, 0.2), candidate('3', 0, 2, 0.2)];
  assert.deepEqual(chooseBruteForce(shares, moves)?.candidate, moves[1]);
  assert.deepEqual(chooseByTopsis(shares, moves)?.candidate, moves[1]);
  assert.equal(chooseBruteForce(shares, []), null);
});
