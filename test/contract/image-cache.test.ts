import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { ensureCached } from '#lab/images/cache.ts';

const skip = process.getuid?.() === 0 ? false : 'mounting needs root';

test(
  'a build that fails with a file system of this host mounted in it leaves what is on that file system alone',
  { skip },
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'holdfast-cache-'));
    const host = join(folder, 'host');
    const cacheRoot = join(folder, 'cache');
    mkdirSync(host);
    writeFileSync(join(host, 'precious'), 'kept');
    try {
      const build = async (directory: string) => {
        mkdirSync(join(directory, 'root/dev/shm'), { recursive: true });
        execFileSync('mount', ['--bind', host, join(directory, 'root/dev/shm')]);
        throw new Error('the builder dies');
      };
      await assert.rejects(ensureCached({ kind: 'thing', inputs: ['1'], build }, { cacheRoot }), /the builder dies/);
      assert.ok(existsSync(join(host, 'precious')));
      assert.deepEqual(readdirSync(join(cacheRoot, 'thing')), []);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
);
