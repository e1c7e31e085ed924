import assert from 'node:assert/strict';
import { test } from 'node:test';
import { listBackupTroubles } from '#core/guest-backup/backup-troubles.ts';
import type { BackupFigures, GuestBackupRecord } from '#core/guest-backup/records.ts';

test('what went wrong with a backup is told with ages, what went well is not', () => {
  const record: GuestBackupRecord = { vmid: 101, target: 'vault', node: 'n1', generation: 1, last: null, failed: null, jobs: {} };
  const last = { snapshot: '', atSeconds: 0, pointAtMs: 1_000, figures: {} as BackupFigures };
  const failed = { atMs: 3_000, because: 'it hangs' };
  const records = [
    { ...record, last },
    { ...record, failed },
    { ...record, vmid: 102, last, failed },
    { ...record, vmid: 103, last: { ...last, notThinned: 'no right to' } },
  ];
  assert.deepEqual(
    listBackupTroubles(records, 5_000, (ms) => `${ms} ms`),
    [
      'guest 101: backup to vault FAILED 2000 ms ago (it hangs); there is none there yet',
      'guest 102: backup to vault FAILED 2000 ms ago (it hangs); the newest there is 4000 ms old',
      'guest 103: older backups on vault were not thinned out: no right to',
    ],
  );
});
