import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseBlobHeader } from '#core/backup/blob.ts';
import { makePayload } from '#lab/db-load-rows.ts';
import { formatLatency, readLatency } from '#lab/drills/backup/latency.ts';
import { addTarget, backUp, type BackupStage, mustBackUp, readQuiet, waitRows } from '#lab/drills/backup/stage.ts';
import { vaultSecrets } from '#lab/drills/backup/vault.ts';
import { databaseGuest } from '#lab/drills/drill-guests.ts';
import { createJudge } from '#lab/drills/faults/scene.ts';
import { operate, type SceneResult } from '#lab/drills/manager/stage.ts';

/** The second backup reads and sends only what changed. */
export async function backUpTwice(stage: BackupStage): Promise<SceneResult> {
  const judge = createJudge();
  await addTarget(stage, 'vault', 'plain', null);
  const quiet = await readQuiet(stage);
  const fromMs = Date.now();
  const first = (await mustBackUp(stage, 'vault')).figures;
  const during = readLatency(stage.lab, fromMs, Date.now());
  await waitRows(stage, 100);
  const second = (await mustBackUp(stage, 'vault')).figures;
  judge.must(first.kind === 'whole', `the first was made ${first.kind}: ${first.because}`);
  judge.must(second.kind === 'delta', `the second was made ${second.kind}: ${second.because}`);
  judge.must(second.readBytes * 4 < second.totalBytes, `the second read ${second.readBytes} of ${second.totalBytes} bytes`);
  judge.must(second.sentWireBytes * 2 < first.sentWireBytes, `the second sent ${second.sentWireBytes} bytes`);
  return {
    scene: 'twice',
    promise: 'a database under load is backed up twice; the second backup reads and sends only what changed',
    figures: {
      'disk bytes': first.totalBytes,
      'first read bytes': first.readBytes,
      'first sent on the wire bytes': first.sentWireBytes,
      'first took ms': first.tookMs,
      'second read bytes': second.readBytes,
      'second chunks sent': second.sentChunks,
      'second sent on the wire bytes': second.sentWireBytes,
      'second took ms': second.tookMs,
      'guest paused ms': `${first.pausedMs} and ${second.pausedMs}`,
      'commits before': formatLatency(quiet),
      'commits during the first': formatLatency(during),
    },
    broken: judge.broken,
  };
}

/** Encrypted before it leaves the node: the server's disk tells nothing, a wrong key gets nothing. */
export async function backUpEncrypted(stage: BackupStage): Promise<SceneResult> {
  const judge = createJudge();
  await addTarget(stage, 'sealed', 'sealed', vaultSecrets.key);
  const { figures } = await mustBackUp(stage, 'sealed');
  const store = join(stage.vault.folder, 'sealed/store');
  const chunks = listChunks(store);
  const plain = chunks.filter((file) => parseBlobHeader(readFileSync(file), file).cryptClass === 'plain');
  judge.must(chunks.length > 0 && plain.length === 0, `${plain.length} of ${chunks.length} chunks are not encrypted`);
  const words = ['PostgreSQL', 'holdfast-init', makePayload(1).slice(0, 24)];
  for (const word of words) judge.must(!isFound(store, word), `"${word}" lies on the server's disk in plain text`);
  await addTarget(stage, 'sealed', 'sealed', vaultSecrets.otherKey);
  const refused = await operate(stage, ['restore', String(databaseGuest.vmid), '301', '--target', 'sealed', '--node', 'n2']);
  judge.must(refused.code !== 0 && /wrong key/.test(refused.text), `a wrong key was answered: ${refused.text.trim()}`);
  await addTarget(stage, 'sealed', 'sealed', vaultSecrets.key);
  const again = await backUp(stage, 'sealed');
  judge.must(again.code === 0, `with the right key again: ${again.text.trim()}`);
  return {
    scene: 'encrypted',
    promise: "nothing readable lies on the server's disk, and a wrong key is refused with words",
    figures: {
      'chunks on the disk, all encrypted': chunks.length,
      'sent on the wire bytes': figures.sentWireBytes,
      'a wrong key is answered': refused.text.trim().split('\n').at(-1) ?? '',
    },
    broken: judge.broken,
  };
}

export function listChunks(store: string): string[] {
  const root = join(store, '.chunks');
  return readdirSync(root).flatMap((folder) => readdirSync(join(root, folder)).map((file) => join(root, folder, file)));
}

function isFound(folder: string, word: string): boolean {
  try {
    execFileSync('grep', ['-rqaF', word, folder]);
    return true;
  } catch {
    return false;
  }
}
