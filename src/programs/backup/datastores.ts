import { sep } from 'node:path';
import Type from 'typebox';
import { Value } from 'typebox/value';
import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { parseDatastoreName } from '#core/backup/names.ts';
import type { Datastore } from '#ports/datastore.ts';
import type { DatastoreConfig } from './config.ts';
import type { StateFile } from './state-file.ts';
import type { Stores } from './stores.ts';

const entrySchema = Type.Object({
  name: Type.String(),
  path: Type.String(),
  comment: Type.Union([Type.String(), Type.Null()]),
  sync: Type.Enum(['none', 'file', 'filesystem']),
  lockDays: Type.Integer(),
  reserveBytes: Type.Integer(),
  verifiesNew: Type.Boolean(),
  touchesChunks: Type.Boolean(),
});
const schema = Type.Array(entrySchema);
const mostStores = 100;

export type DatastoreEntry = DatastoreConfig & { comment: string | null };
/** `isFixed`: it stands in the configuration file. `trouble`: why it is not served. */
export type ListedStore = DatastoreEntry & { isFixed: boolean; trouble: string | null };

/** Raises what typebox raises for what is no such file. */
export function readDatastoresFile(value: unknown): DatastoreEntry[] {
  const entries = Value.Parse(schema, value);
  for (const { name } of entries) parseDatastoreName(name);
  return entries as DatastoreEntry[];
}

/** The datastores: those of the configuration file, and those made by calls, kept in a file of the server's own. */
export type Datastores = {
  /** Those that are open; it changes while the server runs. */
  readonly stores: Stores;
  list(): ListedStore[];
  verifiesNew(name: string): boolean;
  /** Raises AppError invalid or conflict for a datastore that cannot be made. */
  check(entry: DatastoreEntry): void;
  /** Makes one, or opens one that is there (`isReused`). */
  add(entry: DatastoreEntry, isReused: boolean): Promise<void>;
  /** No longer serves one; its folder stays as it is. Raises AppError conflict for one of the configuration file. */
  forget(name: string): Promise<void>;
  close(): Promise<void>;
};

type Parts = {
  fixed: readonly DatastoreConfig[];
  file: StateFile<DatastoreEntry[]>;
  /** `mode` create: it must not be there. */
  open: (config: DatastoreConfig, mode: 'open' | 'create') => Promise<Datastore>;
};

/** Opens all of them. One of the configuration file that cannot be opened ends the start, another one is left out. */
export async function openDatastores({ fixed, file, open }: Parts): Promise<Datastores> {
  const stores = new Map<string, Datastore>();
  const troubles = new Map<string, string>();
  let made = file.read();
  const all = (): DatastoreEntry[] => [...fixed.map((config) => ({ ...config, comment: null })), ...made];
  for (const config of fixed) stores.set(config.name, await open(config, 'open'));
  for (const entry of made) {
    try {
      stores.set(entry.name, await open(entry, 'open'));
    } catch (error) {
      if (!isAppError(error)) throw error;
      troubles.set(entry.name, formatErrorChain(error)); // a disk that is not there today
    }
  }
  const check = (entry: DatastoreEntry): void => {
    if (made.length >= mostStores) throw new AppError('conflict', `there are ${mostStores} datastores already`);
    for (const { name, path } of all()) {
      if (name === entry.name) throw new AppError('conflict', `name: datastore ${name} exists already`);
      if (isInside(entry.path, path) || isInside(path, entry.path))
        throw new AppError('conflict', `path: ${entry.path} and ${path} of datastore ${name} lie in one another`);
    }
  };
  return {
    stores,
    check,
    list: () =>
      all().map((entry) => ({
        ...entry,
        isFixed: fixed.some(({ name }) => name === entry.name),
        trouble: troubles.get(entry.name) ?? null,
      })),
    verifiesNew: (name) => all().some((entry) => entry.name === name && entry.verifiesNew),
    async add(entry, isReused) {
      check(entry);
      const store = await open(entry, isReused ? 'open' : 'create');
      try {
        check(entry); // somebody may have been quicker
        file.write([...made, entry]);
      } catch (error) {
        await store.close();
        throw error;
      }
      made = [...made, entry];
      stores.set(entry.name, store);
    },
    async forget(name) {
      if (fixed.some((config) => config.name === name))
        throw new AppError('conflict', `datastore ${name} stands in the server's configuration file; remove it there`);
      if (!made.some((entry) => entry.name === name)) throw new AppError('missing', `datastore ${name} does not exist`);
      const rest = made.filter((entry) => entry.name !== name);
      file.write(rest);
      made = rest;
      const store = stores.get(name);
      stores.delete(name);
      troubles.delete(name);
      await store?.close();
    },
    async close() {
      for (const store of stores.values()) await store.close();
    },
  };
}

function isInside(path: string, folder: string): boolean {
  return path === folder || path.startsWith(folder.endsWith(sep) ? folder : `${folder}${sep}`);
}
