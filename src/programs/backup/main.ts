import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { nodeBytes } from '#adapters/bytes/node-bytes.ts';
import { openDatastore } from '#adapters/datastore/datastore.ts';
import { openNodeFiles } from '#adapters/datastore/node-files.ts';
import { AppError, exitCodeOf, formatErrorChain, isAppError } from '#base/error.ts';
import type { Datastore } from '#ports/datastore.ts';
import { createLog, type Log } from '#programs/log.ts';
import { hashSecret } from './access.ts';
import { startCheckPool, type CheckPool } from './check-pool.ts';
import { readBackupConfig, type BackupConfig, type DatastoreConfig } from './config.ts';
import { openDatastores, readDatastoresFile } from './datastores.ts';
import { makeDatastore } from './make-datastore.ts';
import { describeRest } from './rest.ts';
import { startSchedule } from './schedule.ts';
import { startServer } from './server.ts';
import { openServices, toLocal } from './services.ts';
import { openStateFile } from './state-file.ts';

const refusalDelayMs = 3_000;

/**
 * `backup/main.ts --config FILE` serves backups. With `--create` datastores that are not there are made first; `--hash-secret` reads a
 * secret from standard input and prints what the configuration takes; `--describe-api` prints all calls with their parameters and limits.
 */
async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      config: { type: 'string' },
      create: { type: 'boolean' },
      'hash-secret': { type: 'boolean' },
      'describe-api': { type: 'boolean' },
    },
  });
  if (values['describe-api'] === true) {
    process.stdout.write(`${JSON.stringify(describeRest(), null, 2)}\n`);
    return;
  }
  if (values['hash-secret'] === true) {
    process.stdout.write(`${hashSecret(readFileSync(0, 'utf8').trimEnd())}\n`);
    return;
  }
  if (values.config === undefined) throw new AppError('invalid', 'backup: --config FILE is missing');
  await serve(readBackupConfig(values.config), values.create === true);
}

async function serve(config: BackupConfig, isCreating: boolean): Promise<void> {
  const log = createLog('backup', config.name);
  const pool = startCheckPool(Math.min(4, availableParallelism()));
  mkdirSync(config.stateFolder, { recursive: true, mode: 0o750 });
  const datastores = await openDatastores({
    fixed: config.datastores,
    file: openStateFile(join(config.stateFolder, 'datastores.json'), [], readDatastoresFile),
    open: (entry, mode) => openStore(entry, pool, log, mode === 'create' ? 'create' : isCreating ? 'either' : 'open'),
  });
  const services = openServices({
    node: config.name,
    stateFolder: config.stateFolder,
    datastores,
    rules: config,
    key: readTicketKey(config.ticketKeyFile),
  });
  const server = await startServer(
    {
      ...services,
      functions: nodeBytes,
      checkContent: (claim, encoded, header) => pool.checkContent(claim, encoded, header),
      log,
      tls: { cert: readFileSync(config.certFile), key: readFileSync(config.keyFile) },
      refusalDelayMs,
    },
    config.listen,
  );
  const schedule = startSchedule({ ...services, functions: nodeBytes }, log);
  log.info({ event: 'backup.serving', ...config.listen, datastores: [...datastores.stores.keys()] }, 'the backup server listens');
  const end = async (): Promise<void> => {
    schedule.stop();
    await server.close();
    await services.close();
    await datastores.close();
    await pool.close();
    process.exit(0);
  };
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => void end());
}

async function openStore(
  { name, path, sync, lockDays, reserveBytes, touchesChunks }: DatastoreConfig,
  pool: CheckPool,
  log: Log,
  mode: 'open' | 'create' | 'either',
): Promise<Datastore> {
  const files = openNodeFiles(path);
  if (mode === 'create' || (mode === 'either' && !existsSync(join(path, '.chunks')))) await makeDatastore(path);
  const store = await openDatastore({
    files,
    functions: nodeBytes,
    checkChunk: (chunk, digest) => pool.check(join(path, chunk), digest),
    checkers: Math.min(4, availableParallelism()),
    nowMs: Date.now,
    randomBytes,
    toLocal,
    sync,
    lockSeconds: lockDays * 86_400,
    reserveBytes,
    touchesChunks,
  });
  for (const folder of store.cleared)
    log.warn({ event: 'backup.cleared', datastore: name, folder }, 'an unfinished backup was cleared away');
  return store;
}

function readTicketKey(file: string): Uint8Array {
  if (!existsSync(file)) writeFileSync(file, randomBytes(32), { mode: 0o600, flag: 'wx' });
  const key = readFileSync(file);
  if (key.length !== 32)
    throw new AppError('invalid', `${file}: a ticket key has 32 bytes, this one ${key.length}; remove it to get a new one`);
  return key;
}

try {
  await main();
} catch (error) {
  process.stderr.write(`${formatErrorChain(error)}\n`);
  process.exit(isAppError(error) ? exitCodeOf(error.kind) : 1);
}
