import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { collectorPort, databaseGuest } from '#lab/drills/drill-guests.ts';
import { type LineProcess, startLineProcess } from '#lab/drills/line-process.ts';
import { labPaths } from '#lab/lab-paths.ts';

/** Starts the collector of a lab's witness in this (the client's) namespace. */
export function startCollectorProcess(lab: string): Promise<LineProcess> {
  const file = join(labPaths(lab).state, 'witness.jsonl');
  return startLineProcess('the collector', [
    programPath('collector-main.ts'),
    '--bind',
    `0.0.0.0:${collectorPort}`,
    '--file',
    file,
  ]);
}

/** Starts the client that commits numbered rows to the database guest. */
export function startLoadProcess(lab: string, rowsPerSecond: number): Promise<LineProcess> {
  const file = join(labPaths(lab).state, 'rows.jsonl');
  const where = ['--host', databaseGuest.address, '--file', file, '--rate', String(rowsPerSecond)];
  return startLineProcess('the database client', [programPath('db-load-main.ts'), ...where]);
}

function programPath(file: string): string {
  return fileURLToPath(new URL(`../${file}`, import.meta.url));
}
