import { setPriority } from 'node:os';
import { limits } from '#base/limits.ts';

/** See polite-thread.ts. */
setPriority(limits.backupLoadNice);
await import(process.argv.at(-1) ?? '');
