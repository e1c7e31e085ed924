import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import { AppError } from '#base/error.ts';
import { findCgroup2Mount } from './cgroup2-mount.ts';

test('the version-2 tree is found on unified and on hybrid systems', () => {
  assert.equal(findCgroup2Mount('proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n'), '/sys/fs/cgroup');
  const hybrid = 'cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n';
  assert.equal(findCgroup2Mount(hybrid), '/sys/fs/cgroup/unified');
  assert.equal(findCgroup2Mount('cgroup2 /mnt/a\\040b cgroup2 rw 0 0\n'), '/mnt/a b');
});

test('a system without one is refused', () => {
  assert.throws(
    () => findCgroup2Mount('cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n'),
    (error) => error instanceof AppError && error.kind === 'unsupported',
  );
});
