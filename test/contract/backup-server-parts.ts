import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLog } from '#programs/log.ts';
import { hashSecret } from '#programs/backup/access.ts';
import { checkContentHere } from '#programs/backup/incoming-chunk.ts';
import { openDatastores, readDatastoresFile } from '#programs/backup/datastores.ts';
import { makeDatastore } from '#programs/backup/make-datastore.ts';
import { startServer } from '#programs/backup/server.ts';
import { openServices } from '#programs/backup/services.ts';
import { openStateFile } from '#programs/backup/state-file.ts';
import { nodeBytes } from '../../src/adapters/bytes/node-bytes.ts';
import { rest } from './backup-client.ts';
import { openDatastore } from '../../src/adapters/datastore/datastore.ts';
import { makeBareStore, realParts } from './datastore-parts.ts';

/** Who is who: `u` and its token and `v`'s own backups; `admin` everything; `w` nothing. */
export const secrets = {
  'u@pbs!t': 'geheim',
  'u@pbs': 'passwort',
  'v@pbs!t': 'other',
  'admin@pbs': 'adminpasswort',
  'w@pbs!t': 'nothing',
} as const;
export type Who = keyof typeof secrets;

export type RunningServer = Awaited<ReturnType<typeof startTestServer>>;

/** A server in this process on a store of its own. */
export async function startTestServer() {
  const made = await makeBareStore();
  const scratch = mkdtempSync(join(tmpdir(), 'holdfast-backup-server-'));
  const accounts = Object.entries(secrets).map(([id, secret]) => ({ id, secretHash: hashSecret(secret) }));
  const acl = ['u@pbs', 'u@pbs!t', 'v@pbs', 'v@pbs!t'].map((who) => ({
    path: '/datastore/store',
    who,
    role: 'DatastorePowerUser',
    propagate: true,
  }));
  acl.push({ path: '/', who: 'admin@pbs', role: 'Admin', propagate: true });
  const entry = { name: 'store', path: made.root, sync: 'filesystem', lockDays: 0, reserveBytes: 0 } as const;
  const datastores = await openDatastores({
    fixed: [{ ...entry, verifiesNew: false, touchesChunks: false }],
    file: openStateFile(join(scratch, 'datastores.json'), [], readDatastoresFile),
    async open({ name, path }, mode) {
      if (name === 'store') return made.store;
      if (mode === 'create') await makeDatastore(path);
      return openDatastore(realParts(path));
    },
  });
  const services = openServices({
    node: 'test',
    stateFolder: scratch,
    datastores,
    rules: { accounts, acl },
    key: randomBytes(32),
  });
  const log = createLog('backup', 'test');
  log.level = 'error';
  const tls = makeCertificate(scratch);
  const parts = { ...services, functions: nodeBytes, checkContent: checkContentHere, log, tls, refusalDelayMs: 50 };
  const server = await startServer(parts, { host: '127.0.0.1', port: 0 });
  return {
    made,
    services,
    server,
    port: server.port,
    scratch,
    async end(): Promise<void> {
      await server.close();
      await services.close();
      made[Symbol.dispose]();
      rmSync(scratch, { recursive: true });
    },
  };
}

export function makeCertificate(folder: string): { cert: Buffer; key: Buffer } {
  const [key, cert] = [join(folder, 'key'), join(folder, 'cert')];
  const order = [
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-nodes',
    '-subj',
    '/CN=backup',
    '-days',
    '2',
  ];
  assert.equal(spawnSync('openssl', [...order, '-keyout', key, '-out', cert]).status, 0);
  return { key: readFileSync(key), cert: readFileSync(cert) };
}

/** Asks the REST API as somebody; `data` of the answer, or its text when it was refused. */
export function createAsker(port: number): (
  who: Who,
  method: string,
  path: string,
  params?: Record<string, unknown>,
  // oxlint-disable-next-line typescript/no-explicit-any -- answers have many shapes; a wrong one fails the test that reads it
) => Promise<{ status: number; data: any; total?: number; text: string }> {
  const logins = new Map<Who, Record<string, string>>();
  const login = async (who: Who): Promise<Record<string, string>> => {
    if (who.includes('!')) return { authorization: `PBSAPIToken=${who}:${secrets[who]}` };
    const body = JSON.stringify({ username: who, password: secrets[who] });
    const { data } = JSON.parse((await rest(port, 'POST', '/api2/json/access/ticket', {}, body)).text) as {
      data: Record<string, string>;
    };
    return {
      cookie: `PBSAuthCookie=${encodeURIComponent(data['ticket'] ?? '')}`,
      csrfpreventiontoken: data['CSRFPreventionToken'] ?? '',
    };
  };
  return async (who, method, path, params = {}) => {
    const headers = logins.get(who) ?? (await login(who));
    logins.set(who, headers);
    const inQuery = method === 'GET' || method === 'DELETE';
    const query = inQuery
      ? `?${new URLSearchParams(Object.entries(params).map(([name, value]): [string, string] => [name, String(value)])).toString()}`
      : '';
    const answer = await rest(port, method, `/api2/json/${path}${query}`, headers, inQuery ? undefined : JSON.stringify(params));
    const whole =
      answer.status === 200 && answer.text.startsWith('{"data"')
        ? (JSON.parse(answer.text) as { data: unknown; total?: number })
        : { data: null };
    return { ...answer, ...whole };
  };
}
