import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  choiceShape,
  findTroubles,
  hasShape,
  listShape,
  nullableShape,
  objectShape,
  optionalShape,
  textShape,
  wholeShape,
} from '#core/text/shape.ts';

const shape = objectShape(
  {
    name: textShape({ minLength: 1, pattern: /^[a-z]+$/ }),
    port: wholeShape({ minimum: 1, maximum: 65_535 }),
    kind: optionalShape(choiceShape(['a', 'b'])),
    inner: objectShape({ epoch: nullableShape(wholeShape()), names: listShape(textShape(), { minItems: 1 }) }),
  },
  'strict',
);
const good = { name: 'x', port: 1, inner: { epoch: null, names: ['y'] } };

test('a value of the shape passes, with and without what may be left out', () => {
  assert.ok(hasShape(shape, good));
  assert.ok(hasShape(shape, { ...good, kind: 'b', inner: { ...good.inner, epoch: 7, more: true } }));
});

test('each thing that is wrong is told with its path', () => {
  const value = { name: 'X', port: 1.5, kind: 'c', prot: 1, inner: { names: [3] } };
  const told = findTroubles(shape, value).map(({ path, kind }) => `${path.join('.')} ${kind}`);
  assert.deepEqual(told, [
    'prot unknown',
    'name wrong',
    'port wrong',
    'kind wrong',
    'inner.epoch missing',
    'inner.names.0 wrong',
  ]);
});

test('lists, nulls, prototypes and numbers out of range are no way around a shape', () => {
  for (const value of [null, [], 'x', { ...good, port: 65_536 }, { ...good, port: '1' }, { ...good, inner: null }])
    assert.ok(!hasShape(shape, value));
  assert.ok(!hasShape(shape, Object.create(good)));
  assert.ok(!hasShape(shape, { ...good, inner: { epoch: null, names: [] } }));
});
