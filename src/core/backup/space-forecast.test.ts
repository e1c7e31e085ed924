import assert from 'node:assert/strict';
import { test } from 'node:test';
import { forecastFull } from './space-forecast.ts';

const day = 86_400;
const sample = (atSeconds: number, usedBytes: number) => ({ atSeconds, usedBytes, totalBytes: 1_000 });

test('a store that fills steadily is full when the line says so', () => {
  const steady = Array.from({ length: 10 }, (_, at) => sample(at * day, 100 + at * 50));
  assert.equal(forecastFull(steady), 9 * day + (450 / 50) * day);
});

test('one that does not fill, or of which little is known, has no such time', () => {
  assert.equal(forecastFull([]), null);
  assert.equal(forecastFull([sample(0, 1), sample(3_600, 500)]), null);
  assert.equal(forecastFull([sample(0, 500), sample(day, 500)]), null);
  assert.equal(forecastFull([sample(0, 500), sample(day, 400)]), null);
});

test('a full store is full now', () => {
  assert.equal(forecastFull([sample(0, 500), sample(day, 1_000)]), day);
});
