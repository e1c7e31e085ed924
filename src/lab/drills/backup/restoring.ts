import { truncateSync, writeFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { connectDb } from '#lab/db-load-connection.ts';
import { makePayload } from '#lab/db-load-rows.ts';
import { listChunks } from '#lab/drills/backup/backing-up.ts';
import { addTarget, type BackupStage, mustBackUp, readLastRow, waitRows } from '#lab/drills/backup/stage.ts';
import { vaultSecrets } from '#lab/drills/backup/vault.ts';
import { testNewest } from '#lab/drills/backup/testing.ts';
import { databaseGuest, waitRunning } from '#lab/drills/drill-guests.ts';
import { waitUntil } from '#lab/drills/drill-store.ts';
import { createJudge } from '#lab/drills/faults/scene.ts';
import { mustOperate, operate, type SceneResult } from '#lab/drills/manager/stage.ts';
import { ehrDatabase } from '#lab/images/ehr-db.ts';

const restoredVmid = 201;

/** Restored as another guest on another node, the database holds every row that was committed before the backup. */
export async function restoreAndRead(stage: BackupStage): Promise<SceneResult> {
  const judge = createJudge();
  await waitRows(stage, 50);
  const committed = await readLastRow(stage);
  await addTarget(stage, 'sealed', 'sealed', vaultSecrets.key);
  const backup = await mustBackUp(stage, 'sealed');
  stage.load?.kill();
  stage.load = null;
  // The restored one has the same address: the old one must be silent.
  await mustOperate(stage, ['guest', 'stop', String(databaseGuest.vmid)]);
  const restored = await mustOperate(
    stage,
    [
      'restore',
      String(databaseGuest.vmid),
      String(restoredVmid),
      '--target',
      'sealed',
      '--node',
      'n2',
      '--name',
      'restored',
      '--start',
    ],
    300_000,
  );
  const startedMs = performance.now();
  await waitRunning(stage.store, restoredVmid, 1, 120_000);
  const rows = await waitUntil('the restored database to answer', 180_000, () => readRows(committed).catch(() => null));
  const answeringMs = Math.round(performance.now() - startedMs);
  const missing = Array.from({ length: committed }, (_, at) => at + 1).filter((id) => rows.get(id) !== makePayload(id));
  judge.must(missing.length === 0, `${missing.length} of ${committed} rows are missing or wrong, first ${missing[0]}`);
  const spoiled = await restoreSpoiled(stage);
  judge.must(spoiled.code !== 0, 'a spoiled backup was restored without a word');
  const tested = await testNewest(stage);
  judge.must(
    tested.code !== 0 && /NOT to be relied on/.test(tested.text),
    `the restore test of a spoiled backup: ${tested.text.trim()}`,
  );
  return {
    scene: 'restore',
    promise:
      'an encrypted backup becomes another guest on another node; PostgreSQL recovers every row committed before; a spoiled one does not',
    figures: {
      'rows committed before the backup': committed,
      'rows missing': missing.length,
      'backup was': `${backup.figures.kind}, ${backup.figures.consistency}-consistent`,
      'restore took ms': restored.tookMs,
      'wanted started to first answer ms': answeringMs,
      'its restore test is answered': tested.text.trim().split('\n').at(-1) ?? '',
      'a spoiled backup is answered': spoiled.text.trim().split('\n').at(-1) ?? '',
    },
    broken: judge.broken,
  };
}

async function readRows(count: number): Promise<Map<number, string>> {
  const connection = await connectDb({ ...ehrDatabase, host: databaseGuest.address });
  try {
    return await connection.readRows(1, count);
  } finally {
    connection.close();
  }
}

/** Damages some chunks on the server's disk, then restores. */
async function restoreSpoiled(stage: BackupStage): Promise<{ code: number; text: string }> {
  const chunks = listChunks(join(stage.vault.folder, 'sealed/store'));
  for (const file of chunks) {
    const { size } = statSync(file);
    truncateSync(file, Math.floor(size / 2));
    writeFileSync(file, new Uint8Array(size - Math.floor(size / 2)), { flag: 'a' });
  }
  return await operate(stage, ['restore', String(databaseGuest.vmid), '202', '--target', 'sealed', '--node', 'n3'], 120_000);
}
