import { mkdirSync, readdirSync } from 'node:fs';
import { createDatastore } from '#adapters/datastore/datastore.ts';
import { openNodeFiles } from '#adapters/datastore/node-files.ts';
import { AppError } from '#base/error.ts';

/** Makes the folders of a datastore in a folder that is empty or not there. Raises AppError conflict. */
export async function makeDatastore(path: string): Promise<void> {
  mkdirSync(path, { recursive: true, mode: 0o750 });
  const found = readdirSync(path).filter((name) => name !== 'lost+found');
  if (found.includes('.chunks')) throw new AppError('conflict', `path: there is a datastore in ${path} already`);
  // What a crash left of one that was being made may stay.
  if (found.some((name) => name !== '.holdfast')) throw new AppError('conflict', `path: ${path} is not empty`);
  await createDatastore({ files: openNodeFiles(path) });
}
