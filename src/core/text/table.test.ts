import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatTable } from '#core/text/table.ts';

const plain = { widthColumns: 100, color: false };

test('columns are aligned and lines carry no trailing blanks', () => {
  const text = formatTable(
    [{ title: 'NODE' }, { title: 'EPOCH', align: 'right' }, { title: 'STATE' }],
    [
      ['n1', '7', 'up'],
      ['north-2', '12', { text: 'down', tone: 'bad' }],
    ],
    plain,
  );
  assert.equal(text, ['NODE     EPOCH  STATE', 'n1           7  up', 'north-2     12  down', ''].join('\n'));
});

test('the wrapping column keeps the table within its width', () => {
  const because = 'waits for a verified copy that is at most five minutes old, the newest one on n3 is older';
  const text = formatTable([{ title: 'GUEST' }, { title: 'BECAUSE', wraps: true }], [['101', because]], {
    widthColumns: 40,
    color: false,
  });
  const lines = text.trimEnd().split('\n');
  assert.ok(lines.length > 2 && lines.every((line) => line.length <= 40), text);
  assert.equal(
    lines
      .slice(1)
      .map((line) => line.slice(7))
      .join(' '),
    because,
  );
});

test('of two wrapping columns the wider gives way first, and short ones keep their width', () => {
  const text = formatTable(
    [
      { title: 'A', wraps: true },
      { title: 'B', wraps: true },
      { title: 'C', wraps: true },
    ],
    [['short', 'ten words '.repeat(6).trim(), 'four words or more '.repeat(4).trim()]],
    { widthColumns: 60, color: false },
  );
  const lines = text.trimEnd().split('\n');
  assert.ok(
    lines.every((line) => line.length <= 60),
    text,
  );
  assert.match(lines[1] ?? '', /^short {2}ten words ten words ten {2,4}four words or more four$/);
});

test('no rows give no output, colour only when asked for', () => {
  assert.equal(formatTable([{ title: 'A' }], [], plain), '');
  const colored = formatTable([{ title: 'A' }], [[{ text: 'x', tone: 'bad' }]], { widthColumns: 100, color: true });
  assert.ok(colored.includes('\u001b[31mx\u001b[0m'));
});
