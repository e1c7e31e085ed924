import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatUpid, parseUpid } from './upid.ts';

test('a task is named as the original names it, and read back', () => {
  const upid = { node: 'pbs', pid: 839, processStart: 2_588, number: 17, startSeconds: 1_601_837_868, type: 'backup' } as const;
  const cases: [string | null, string, string][] = [
    ['store:vm/100', 'root@pam', 'UPID:pbs:00000347:00000A1C:00000011:5F7A1B2C:backup:store\\x3avm-100:root@pam:'],
    [null, 'u@pbs!t', 'UPID:pbs:00000347:00000A1C:00000011:5F7A1B2C:backup::u@pbs!t:'],
    ['.a-ü', 'u@pbs', 'UPID:pbs:00000347:00000A1C:00000011:5F7A1B2C:backup:\\x2ea\\x2d\\xc3\\xbc:u@pbs:'],
  ];
  for (const [id, who, text] of cases) {
    assert.equal(formatUpid({ ...upid, id, who }), text);
    assert.deepEqual(parseUpid(text), { ...upid, id, who });
  }
});

test('what is no name of a task is refused', () => {
  const good = 'UPID:pbs:00000347:00000A1C:00000011:5F7A1B2C:backup::u@pbs:';
  for (const text of ['', good.slice(0, -1), good.replace('347', '34g'), `${good}x`, `../${good}`, good.replace('pbs', 'a/b'), 7])
    assert.throws(() => parseUpid(text), /^AppError: upid: /);
});
