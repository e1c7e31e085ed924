import type { CatalogPart } from '#core/backup/catalog.ts';
import type { Trouble } from './chunk-jobs.ts';
import type { TreeFigures, TreeOptions } from './tree-reader.ts';

/**
 * A worker reads a tree and gives chunks of its archive away in the buffers that it is given. `credits`: one number in shared memory, raised
 * after every buffer that was posted; the worker sleeps on it.
 */
export type TreeReaderData = { root: string; name: string; options: TreeOptions; credits: SharedArrayBuffer };
export type TreeReaderWord =
  | { kind: 'chunk'; room: ArrayBuffer; bytes: number }
  | { kind: 'notice'; text: string }
  | { kind: 'end'; figures: TreeFigures; catalog: CatalogPart }
  | { kind: 'trouble'; error: Trouble };

/** A worker writes a tree from the content of its archive; every piece is answered, so that not too many are under way. */
export type TreeWriterData = { target: string; isOwnerKept: boolean };
export type TreeWriterOrder = { kind: 'data'; bytes: Uint8Array } | { kind: 'end' };
export type TreeWriterWord =
  | { kind: 'taken' }
  | { kind: 'notice'; text: string }
  | { kind: 'end'; entries: number }
  | { kind: 'trouble'; error: Trouble };
