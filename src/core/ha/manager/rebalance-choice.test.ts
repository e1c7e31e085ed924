import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseBruteForce, chooseByTopsis, imbalanceOf, type Mover, type NodeShare } from '#core/ha/manager/rebalance-choice.ts';

function share(cpu: number, memory = cpu): NodeShare {
  return { cpu, memory };
}

function mover(guest: string, source: number, targets: number[], load: number): Mover {
  return { guest, source, targets, leaves: share(load), arrives: [share(load), share(load), share(load)] };
}

test('imbalance is the standard deviation over the mean, not normalised for the number of nodes', () => {
  assert.equal(imbalanceOf([share(1), share(0), share(0)]).toFixed(4), Math.SQRT2.toFixed(4));
  assert.equal(imbalanceOf([share(0.5), share(0.5)]), 0);
  assert.equal(imbalanceOf([share(0), share(0)]), 0);
});

test('the corrected sums agree with sums made anew, whatever the move', () => {
  const shares = [share(0.9, 0.3), share(0.1, 0.2), share(0.4, 0.7)];
  for (const move of [mover('1', 0, [1], 0.25), mover('1', 2, [1], 0.4), mover('1', 0, [2], 0.01)]) {
    const after = shares.map(({ cpu, memory }, index) => {
      const change = (move.targets.includes(index) ? 1 : 0) - (index === move.source ? 1 : 0);
      return { cpu: cpu + change * move.leaves.cpu, memory: memory + change * move.leaves.memory };
    });
    assert.ok(Math.abs((chooseBruteForce(shares, [move])?.imbalance ?? -1) - imbalanceOf(after)) < 1e-12);
  }
});

test('the move that evens out best wins, the first of equals', () => {
  const shares = [share(0.8), share(0.2), share(0.2)];
  const movers = [mover('1', 0, [1], 0.05), mover('2', 0, [1, 2], 0.2), mover('3', 0, [2], 0.2)];
  for (const choose of [chooseBruteForce, chooseByTopsis]) {
    const move = choose(shares, movers);
    assert.deepEqual([move?.guest, move?.target], ['2', 1]);
    assert.equal(choose(shares, []), null);
  }
});
