import type { RestoreTestRecord } from '#core/guest-backup/records.ts';
import { keys } from '#core/ha/keys.ts';
import type { BackupStage } from '#lab/drills/backup/stage.ts';
import { readLastRow } from '#lab/drills/backup/stage.ts';
import { databaseGuest } from '#lab/drills/drill-guests.ts';
import { readValue } from '#lab/drills/drill-store.ts';
import { createJudge } from '#lab/drills/faults/scene.ts';
import { type Operated, operate, type SceneResult } from '#lab/drills/manager/stage.ts';
import { ehrDatabase } from '#lab/images/ehr-db.ts';

/** Runs a restore test that asks the restored database for its rows. */
export function testNewest(stage: BackupStage): Promise<Operated> {
  const { port, user, database, table } = ehrDatabase;
  const where = `address=${databaseGuest.address}/24,port=${port},user=${user},database=${database},timeout=3m`;
  const probe = `sql:${where},query=select count(*) as rows from ${table}`;
  const argv = ['backup', 'test', String(databaseGuest.vmid), '--target', 'sealed', '--node', 'n3', '--probe', probe];
  return operate(stage, argv, 400_000);
}

/** The restored database answers on a bridge of its own, beside the one that goes on under the same address. */
export async function testRestores(stage: BackupStage): Promise<SceneResult> {
  const judge = createJudge();
  const before = await readLastRow(stage);
  const done = await testNewest(stage);
  const record = await readValue<RestoreTestRecord>(stage.store, keys.restoreTest(databaseGuest.vmid));
  judge.must(done.code === 0 && record?.passed === true, `the restore test did not pass: ${done.text.trim()}`);
  judge.must((await readLastRow(stage)) > before, 'the database itself stood still meanwhile');
  const status = await operate(stage, ['status']);
  judge.must(/restore test passed/.test(status.text), '`status` does not tell of the restore test');
  return {
    scene: 'tested',
    promise: 'a restore test boots the newest backup apart from everything and asks its database; the verdict shows in status',
    figures: {
      verdict: record?.because ?? 'none',
      'restore took ms': record?.restoreMs ?? 0,
      'start to answer ms': record?.bootMs ?? 0,
      'whole test took ms': done.tookMs,
    },
    broken: judge.broken,
  };
}
