import { parseArgs } from 'node:util';
import { AppError, formatErrorChain } from '#base/error.ts';
import { readControlLines } from '#lab/control-lines.ts';
import { startDbLoad, type DbLoadOptions } from '#lab/db-load.ts';
import { ehrDatabase } from '#lab/images/ehr-db.ts';

/**
 * The database client as a process of its own, for the lab's client namespace.
 *
 * stdout, one JSON line each: `{"ready":true}`; the state for each line `state` on stdin; the report, `{"report":{…}}`, after `stop`, SIGTERM, SIGINT or
 * the end of stdin, then it ends.
 */
async function main(): Promise<void> {
  const load = startDbLoad(readOptions());
  const tell = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value)}\n`);
  const control = readControlLines((line) => (line === 'state' ? tell({ state: load.state() }) : undefined));
  tell({ ready: true });
  await control.stopped;
  try {
    tell({ report: await load.stop() });
  } finally {
    control.close();
  }
}

function readOptions(): DbLoadOptions {
  const { values } = parseArgs({
    options: {
      host: { type: 'string' },
      port: { type: 'string', default: String(ehrDatabase.port) },
      file: { type: 'string' },
      rate: { type: 'string', default: '50' },
      batch: { type: 'string', default: '1' },
    },
  });
  if (values.host === undefined) throw new AppError('invalid', '--host ADDRESS: where the database answers');
  if (values.file === undefined) throw new AppError('invalid', '--file FILE: where the acknowledgements are to be kept');
  const { user, database, table } = ehrDatabase;
  const counts = {
    port: whole('--port', values.port),
    rate: whole('--rate', values.rate),
    batch: whole('--batch', values.batch),
  };
  return { host: values.host, file: values.file, user, database, table, ...counts };
}

function whole(option: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new AppError('invalid', `${option} ${JSON.stringify(text)}: give a whole number from 1`);
  return value;
}

main().catch((error: unknown) => {
  process.stderr.write(`db-load: ${formatErrorChain(error)}\n`);
  process.exitCode = 1;
});
