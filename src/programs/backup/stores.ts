import type { GroupId } from '#core/backup/names.ts';
import type { Datastore } from '#ports/datastore.ts';

/** The open datastores by their names. */
export type Stores = ReadonlyMap<string, Datastore>;

/** What a task of a store is about, as the original writes it. */
export function taskIdOf(store: string, { namespace, type, id }: GroupId): string {
  return `${store}:${[...namespace.map((level) => `ns/${level}`), type, id].join('/')}`;
}
