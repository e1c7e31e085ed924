import assert from 'node:assert/strict';
import { test } from 'node:test';
import { topsisScores } from '#core/ha/manager/topsis.ts';

test('an alternative that is best in everything scores 1, one that is worst in everything 0', () => {
  assert.deepEqual(
    topsisScores(
      [
        [1, 1],
        [2, 3],
      ],
      [1, 1],
    ),
    [1, 0],
  );
});

test('alternatives that do not differ score the same', () => {
  assert.deepEqual(topsisScores([[2], [2], [2]], [1]), [0, 0, 0]);
});

test('the weight decides between two criteria that speak against each other', () => {
  const rows = [
    [1, 2],
    [2, 1],
  ];
  const [first = 0, second = 0] = topsisScores(rows, [1, 10]);
  assert.ok(second > first);
  const [third = 0, fourth = 0] = topsisScores(rows, [10, 1]);
  assert.ok(third > fourth);
});

test('a hand-made example: distances are weighed before they are squared', () => {
  // Columns divided by their norms: 3, 4 -> 0.6, 0.8 and 4, 3 -> 0.8, 0.6. Row 0 to the best: 2 * 0.2, to the worst: 1 * 0.2.
  const [score = 0] = topsisScores(
    [
      [3, 4],
      [4, 3],
    ],
    [1, 2],
  );
  assert.ok(Math.abs(score - 0.2 / 0.6) < 1e-12, String(score));
});
