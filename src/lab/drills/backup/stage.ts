import { setTimeout as delay } from 'node:timers/promises';
import { AppError } from '#base/error.ts';
import type { GuestBackupRecord } from '#core/guest-backup/records.ts';
import { keys } from '#core/ha/keys.ts';
import { type Latency, readLatency } from '#lab/drills/backup/latency.ts';
import { secretPath, type Vault, vaultSecrets, type VaultStore } from '#lab/drills/backup/vault.ts';
import { databaseGuest } from '#lab/drills/drill-guests.ts';
import { readValue } from '#lab/drills/drill-store.ts';
import { waitCommitting } from '#lab/drills/manager/database.ts';
import { mustOperate, type Operated, operate, type Stage } from '#lab/drills/manager/stage.ts';

/** What the scenes share. */
export type BackupStage = Stage & { vault: Vault; home: string };

/** How long commits are looked at while nothing is backed up. */
export const quietMs = 15_000;
/** Whoever gives the command sits elsewhere: that it is started must not cost the guests here their processor. */
const operatorNice = 10;

/** Commits' latency over some seconds in which nothing but replication goes on. */
export async function readQuiet(stage: BackupStage): Promise<Latency> {
  const fromMs = Date.now();
  await delay(quietMs);
  return readLatency(stage.lab, fromMs, Date.now());
}

/** Names a target for one of the server's stores. */
export async function addTarget(stage: BackupStage, id: string, store: VaultStore, key: string | null): Promise<void> {
  const { vault } = stage;
  const where = ['--repository', vault.repository(store), '--fingerprint', vault.fingerprint];
  const keyfile = key === null ? [] : ['--keyfile', secretPath(key)];
  await mustOperate(stage, [
    'backup',
    'target',
    'add',
    id,
    ...where,
    '--password-file',
    secretPath(vaultSecrets.password),
    ...keyfile,
  ]);
}

export function backUp(stage: BackupStage, target: string, more: string[] = []): Promise<Operated> {
  const argv = ['backup', 'guest', 'run', String(databaseGuest.vmid), '--target', target, ...more];
  return operate(stage, argv, 300_000, operatorNice);
}

export async function mustBackUp(stage: BackupStage, target: string): Promise<NonNullable<GuestBackupRecord['last']>> {
  const done = await backUp(stage, target);
  if (done.code !== 0) throw new AppError('conflict', `the backup to ${target} ended with ${done.code}: ${done.text.trim()}`);
  const record = await readValue<GuestBackupRecord>(stage.store, keys.guestBackup(databaseGuest.vmid, target));
  if (record?.last === null || record === null) throw new AppError('missing', `nothing is recorded of the backup to ${target}`);
  return record.last;
}

/** The number of the last row that was acknowledged before now; the first one is 1. */
export async function readLastRow(stage: BackupStage): Promise<number> {
  return (await waitCommitting(stage, Date.now() - 1_000)).rowsCommitted;
}

/** Waits for so many more rows. */
export async function waitRows(stage: BackupStage, count: number): Promise<void> {
  const from = await readLastRow(stage);
  const deadlineMs = Date.now() + 120_000;
  while ((await readLastRow(stage)) < from + count) {
    if (Date.now() > deadlineMs) throw new AppError('timeout', `the database did not commit ${count} more rows in 120 s`);
    await delay(200);
  }
}
