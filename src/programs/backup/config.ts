import { readFileSync } from 'node:fs';
import { dirname, isAbsolute, resolve } from 'node:path';
import { parse, TomlError } from 'smol-toml';
import Type from 'typebox';
import { Value } from 'typebox/value';
import { AppError } from '#base/error.ts';
import { parseAclPath, roles, type AclEntry } from '#core/access/acl.ts';
import { parseDatastoreName } from '#core/backup/names.ts';
import { parseAuthId } from '#core/backup/owner.ts';
import type { Account } from './access.ts';

/** The backup server's own configuration, read once. */
export type BackupConfig = {
  name: string;
  listen: { host: string; port: number };
  certFile: string;
  keyFile: string;
  /** Signs tickets; made at the first start. */
  ticketKeyFile: string;
  /** Users, jobs and task logs that calls make. */
  stateFolder: string;
  datastores: DatastoreConfig[];
  accounts: Account[];
  acl: AclEntry[];
};

/** `lockDays`: new snapshots cannot be removed for so long. `reserveBytes`: kept free for removing. */
export type DatastoreConfig = {
  name: string;
  path: string;
  sync: 'none' | 'file' | 'filesystem';
  lockDays: number;
  reserveBytes: number;
  verifiesNew: boolean;
  touchesChunks: boolean;
};

export const defaultReserveMib = 64;
const strict = { additionalProperties: false };
const text = Type.String({ minLength: 1 });
const fileSchema = Type.Object(
  {
    server: Type.Object(
      {
        name: text,
        address: text,
        port: Type.Integer({ minimum: 1, maximum: 65_535 }),
        cert: text,
        key: text,
        'ticket-key': text,
        state: Type.Optional(text),
      },
      strict,
    ),
    datastore: Type.Optional(
      Type.Array(
        Type.Object(
          {
            name: text,
            path: text,
            sync: Type.Optional(Type.Enum(['none', 'file', 'filesystem'])),
            'lock-days': Type.Optional(Type.Integer({ minimum: 0, maximum: 36_500 })),
            'reserve-mib': Type.Optional(Type.Integer({ minimum: 0, maximum: 1_048_576 })),
            'verify-new': Type.Optional(Type.Boolean()),
            'touch-chunks': Type.Optional(Type.Boolean()),
          },
          strict,
        ),
      ),
    ),
    account: Type.Optional(
      Type.Array(Type.Object({ id: text, 'secret-hash': Type.String({ pattern: '^scrypt\\$[^$]+\\$[^$]+$' }) }, strict)),
    ),
    acl: Type.Optional(
      Type.Array(
        Type.Object(
          { path: Type.String({ pattern: '^/' }), who: text, role: text, propagate: Type.Optional(Type.Boolean()) },
          strict,
        ),
      ),
    ),
  },
  strict,
);

/** Reads the file. Raises AppError invalid naming the file and the field, also for keys that are not known. */
export function readBackupConfig(file: string): BackupConfig {
  const raw = parseFile(file);
  const trouble = Value.Errors(fileSchema, raw)[0];
  if (trouble !== undefined) throw new AppError('invalid', `${file}: ${trouble.instancePath || '/'}: ${trouble.message}`);
  const { server, datastore = [], account = [], acl = [] } = Value.Parse(fileSchema, raw);
  const at = (path: string): string => (isAbsolute(path) ? path : resolve(dirname(file), path));
  return {
    name: server.name,
    listen: { host: server.address, port: server.port },
    certFile: at(server.cert),
    keyFile: at(server.key),
    ticketKeyFile: at(server['ticket-key']),
    stateFolder: server.state === undefined ? dirname(at(server['ticket-key'])) : at(server.state),
    datastores: datastore.map((entry) => ({
      name: parseDatastoreName(entry.name, `${file}: datastore.name`),
      path: at(entry.path),
      sync: (entry.sync ?? 'filesystem') as DatastoreConfig['sync'],
      lockDays: entry['lock-days'] ?? 0,
      reserveBytes: (entry['reserve-mib'] ?? defaultReserveMib) * 1024 * 1024,
      verifiesNew: entry['verify-new'] ?? false,
      touchesChunks: entry['touch-chunks'] ?? false,
    })),
    accounts: account.map((entry) => ({ id: parseAuthId(entry.id, `${file}: account.id`), secretHash: entry['secret-hash'] })),
    acl: acl.map(({ path, who, role, propagate }) => readAcl(file, { path, who, role, propagate: propagate ?? true })),
  };
}

function readAcl(file: string, entry: AclEntry): AclEntry {
  parseAuthId(entry.who, `${file}: acl.who`);
  if (!Object.hasOwn(roles, entry.role)) {
    throw new AppError('invalid', `${file}: acl.role: ${JSON.stringify(entry.role)} is none of ${Object.keys(roles).join(', ')}`);
  }
  parseAclPath(entry.path, `${file}: acl.path`);
  return entry;
}

function parseFile(file: string): unknown {
  try {
    return parse(readFileSync(file, 'utf8'));
  } catch (cause) {
    const place = cause instanceof TomlError ? ` (line ${cause.line})` : '';
    throw new AppError('invalid', `${file}: the configuration cannot be read${place}`, { cause });
  }
}
