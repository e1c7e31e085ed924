import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys } from '#core/ha/keys.ts';
import { createHealthyCluster, type FakeWorld } from '#cli/fake-world.ts';

/** The healthy cluster with three more guests: web, mail and pacs. */
function createCluster(): FakeWorld {
  const fake = createHealthyCluster();
  const guest = fake.store.peek<GuestRecord>(keys.guest(100));
  for (const [vmid, name] of [
    [101, 'web'],
    [102, 'mail'],
    [103, 'pacs'],
  ] as const) {
    fake.store.put(keys.guest(vmid), { ...guest, vmid, name });
  }
  return fake;
}

test('each kind of rule is written under its id and listed', async () => {
  const fake = createCluster();
  const run = (argv: string) => fake.run('ha', ...argv.split(' '));
  const prefer = await run('rule prefer-nodes db-first --guests ehr-db --nodes n1:2,n2:1 --hard');
  assert.equal(prefer.out, 'rule db-first: guests 100 belong on n1 (rank 2), n2 (rank 1) and run nowhere else\n');
  assert.deepEqual(fake.store.peek(keys.haRule('db-first')), {
    id: 'db-first',
    enabled: true,
    guests: ['100'],
    kind: 'prefer-nodes',
    hard: true,
    nodes: [
      { node: 'n1', rank: 2 },
      { node: 'n2', rank: 1 },
    ],
  });
  assert.equal((await run('rule keep-together pair --guests 101,102')).code, 0);
  assert.equal((await run('rule keep-apart spread --guests 101,pacs')).code, 0);
  const { out } = await run('rules');
  assert.match(out, /^db-first +prefer-nodes +100 +n1:2, n2:1 +hard +yes$/m);
  assert.match(out, /^spread +keep-apart +101, 103 +yes$/m);
});

test('a rule of the same id is replaced, of another kind it is refused; switched off it stays off', async () => {
  const fake = createCluster();
  const run = (argv: string) => fake.run('ha', 'rule', ...argv.split(' '));
  await run('keep-together pair --guests 101,102');
  assert.match((await run('disable pair')).out, /rule pair does not hold any more/);
  assert.match((await run('keep-together pair --guests 101,103')).out, /guests 101, 103 run on one node \(switched off\)/);
  const other = await run('keep-apart pair --guests 101,102');
  assert.deepEqual([other.code, /id: pair is a rule keep-together already/.test(other.err)], [4, true]);
  assert.equal((await run('enable pair')).code, 0);
  assert.equal((await run('remove pair')).code, 0);
  const gone = await run('remove pair');
  assert.deepEqual([gone.code, /id: there is no rule pair; known: none/.test(gone.err)], [3, true]);
});

test('bad input to a rule is refused by its field and writes nothing', async () => {
  const cases: [string, number, RegExp][] = [
    ['keep-apart Bad_Id --guests 100,101', 2, /id: "Bad_Id"/],
    ['keep-apart a --guests 100,999', 3, /guests: there is no guest 999; known: 100 ehr-db, 101 web/],
    ['keep-apart a --guests 100,ehr-db', 2, /guests: guest 100 is given twice/],
    ['prefer-nodes a --guests 100 --nodes n9:1', 3, /nodes: there is no node n9; known: n1, n2, n3/],
    ['prefer-nodes a --guests 100 --nodes n1:high', 2, /nodes: rank of n1: "high"/],
    ['prefer-nodes a --guests 100 --nodes n1:1,n1:2', 2, /nodes: n1 is given twice/],
    ['prefer-nodes a --guests 100', 2, /--nodes/],
    ['enable nothing', 3, /id: there is no rule nothing/],
  ];
  for (const [argv, code, words] of cases) {
    const fake = createCluster();
    const before = await fake.store.list('/');
    const result = await fake.run('ha', 'rule', ...argv.split(' '));
    assert.match(result.err, words);
    assert.equal(result.code, code, argv);
    assert.deepEqual(await fake.store.list('/'), before, argv);
  }
});

test('a rule that cannot hold is refused with the reason, written with --force, and shown as what it is', async () => {
  const fake = createCluster();
  const run = (argv: string) => fake.run('ha', ...argv.split(' '));
  const lonely = await run('rule keep-apart lonely --guests 100');
  assert.deepEqual([lonely.code, /cannot hold: it names fewer than two guests; nothing was changed/.test(lonely.err)], [4, true]);
  const crowd = await run('rule keep-apart crowd --guests 100,101,102,103');
  assert.match(crowd.err, /rule crowd cannot hold: 4 guests cannot stay apart on 3 nodes/);
  assert.equal((await run('rule keep-together pair --guests 100,101')).code, 0);
  const against = await run('rule keep-apart against --guests 100,101');
  assert.match(against.err, /two guests of against are to be kept both together and apart; nothing was changed, add --force/);
  assert.equal(fake.store.peek(keys.haRule('against')), null);
  assert.equal((await run('rule keep-apart against --guests 100,101 --force')).code, 0);
  const { out } = await run('rules');
  assert.match(out, /^against +keep-apart +100, 101 +cannot +two guests of against/m);
  assert.match(out, /^pair +keep-together +100, 101 +cannot/m);
  assert.match((await run('show 100')).out, /rule pair cannot hold: two guests of against/);
});

test('a disabled rule contradicts nobody until it is enabled', async () => {
  const fake = createCluster();
  const run = (argv: string) => fake.run('ha', 'rule', ...argv.split(' '));
  await run('keep-together pair --guests 100,101');
  await run('disable pair');
  assert.equal((await run('keep-apart against --guests 100,101')).code, 0);
  const refused = await run('enable pair');
  assert.deepEqual([refused.code, /rule pair cannot hold/.test(refused.err)], [4, true]);
  assert.equal((await run('enable pair --force')).code, 0);
});
