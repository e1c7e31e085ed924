import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import { keys } from '#core/ha/keys.ts';
import type { CommitOutcome, Store } from '#ports/store.ts';
import { deleteGuest, type DeletionOptions } from '#programs/agent/guest-deletion.ts';

const config = { cores: 1, memoryMb: 64, disks: [{ name: 'disk0', sizeBytes: 1 << 20 }], nics: [], boot: null };
const record = { vmid: 100, name: 'a', config, home: 'n1', generation: 1, order: null };
const making = {
  id: '1',
  node: 'n1',
  createdAtMs: 0,
  kind: 'guest-create',
  vmid: 100,
  state: 'running',
  progress: { text: '', doneBytes: null, totalBytes: null },
  name: 'a',
  config,
  imports: {},
  want: 'stopped',
};

/** Guest 100 on n1. `answers`: what becomes of its deletions, one after the other; `late`: no answer, and it takes effect. */
function world(options: { answers?: ('committed' | 'lost' | 'late' | 'conflict')[]; runs?: boolean; isThere?: boolean } = {}) {
  const values = new Map<string, string>();
  if (options.isThere !== false) values.set(keys.guest(100), JSON.stringify(record));
  const [commits, removed]: [string[][], number[]] = [[], []];
  const answers = [...(options.answers ?? [])];
  const store = {
    read: async (key: string) => (values.has(key) ? { key, value: values.get(key) ?? '', modRevision: 1n } : null),
    commit: async (_compares: unknown, writes: { key: string; value: string | null }[]): Promise<CommitOutcome> => {
      commits.push(writes.flatMap(({ key, value }) => (value === null ? [key] : [])));
      const answer = answers.shift() ?? 'committed';
      if (answer === 'conflict') return { kind: 'conflict' };
      if (answer !== 'lost') for (const { key, value } of writes) if (value === null) values.delete(key);
      return answer === 'committed' ? { kind: 'committed', revision: 1n } : { kind: 'maybe', cause: 'lost' };
    },
  } as unknown as Store;
  const entries = [{ key: keys.request('1'), value: making, modRevision: 1n }];
  const deletion = {
    self: 'n1',
    store,
    world: { list: () => entries } as never,
    storage: { listCopies: async () => [], remove: async (vmid: number) => void removed.push(vmid) },
    guests: { running: () => (options.runs === true ? [{ vmid: 100 }] : []) } as never,
    live: { end: async () => {} } as never,
  } satisfies DeletionOptions;
  return { deletion, commits, removed };
}

test('who deletes a guest ends, in the same commit, what had begun to make it', async () => {
  const { deletion, commits, removed } = world();
  await deleteGuest(deletion, 100);
  assert.ok(commits[0]?.includes(keys.guest(100)) && commits[0].includes(keys.request('1')), commits.join());
  assert.deepEqual(removed, [100]);
});

test('a deletion whose answer is lost is asked until it is known; its disks go only then', async () => {
  const lost = world({ answers: ['lost', 'lost'] });
  await deleteGuest(lost.deletion, 100);
  assert.deepEqual([lost.commits.length, lost.removed], [3, [100]]);
  const late = world({ answers: ['late'] });
  await deleteGuest(late.deletion, 100);
  assert.deepEqual([late.commits.length, late.removed], [1, [100]]);
  const changed = world({ answers: ['lost', 'conflict'] });
  await assert.rejects(deleteGuest(changed.deletion, 100), (error) => isAppError(error, 'conflict'));
  assert.deepEqual(changed.removed, []);
});

test('the disks of a guest that runs here are never taken away, also when its record has gone already', async () => {
  for (const isThere of [true, false]) {
    const { deletion, commits, removed } = world({ runs: true, isThere });
    await assert.rejects(deleteGuest(deletion, 100), /guest 100 runs on n1; stop it first/);
    assert.deepEqual([commits, removed], [[], []]);
  }
});
