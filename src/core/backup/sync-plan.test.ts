import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isChosen, parseGroupFilter } from './group-filter.ts';
import { planSync } from './sync-plan.ts';

const at = (...times: number[]) => times.map((atSeconds) => ({ atSeconds, isFinished: true }));

test('what is newer than the newest at the target goes there, oldest first', () => {
  assert.deepEqual(planSync(at(5, 3, 1, 4), at(2, 3), { transferLast: null }).transfer, [4, 5]);
  assert.deepEqual(planSync(at(1, 2, 3), [], { transferLast: 2 }).transfer, [2, 3]);
  assert.deepEqual(planSync(at(1, 2), [], { transferLast: 0 }).transfer, []);
  assert.deepEqual(planSync([{ atSeconds: 9, isFinished: false }], [], { transferLast: null }).transfer, []);
  assert.deepEqual(
    planSync(at(4), [{ atSeconds: 5, isFinished: false }], { transferLast: null }).transfer,
    [4],
    'one that is being written is no base',
  );
});

test('what the source has no more is named', () => {
  assert.deepEqual(planSync(at(3), at(1, 2, 3), { transferLast: null }).vanished, [1, 2]);
});

test('groups are included, then excluded', () => {
  const chosen = (...texts: string[]) => {
    const filters = texts.map((text) => parseGroupFilter(text));
    return (['vm/100', 'vm/101', 'host/a'] as const).filter((name) => {
      const [type, id] = name.split('/') as ['vm' | 'host', string];
      return isChosen(filters, type, id);
    });
  };
  assert.deepEqual(chosen(), ['vm/100', 'vm/101', 'host/a']);
  assert.deepEqual(chosen('type:vm', 'exclude:group:vm/101'), ['vm/100']);
  assert.deepEqual(chosen('include:regex:^vm/1', 'group:host/a'), ['vm/100', 'vm/101', 'host/a']);
  assert.deepEqual(chosen('all', 'exclude:regex:1$'), ['vm/100', 'host/a']);
  for (const wrong of ['type:x', 'group:vm', 'regex:(', 'some', `regex:${'a'.repeat(300)}`])
    assert.throws(() => parseGroupFilter(wrong), /^AppError: group-filter: /);
});
