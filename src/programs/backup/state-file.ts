import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { AppError } from '#base/error.ts';

/** A JSON file of this server's own, always whole: the old or the new. */
export type StateFile<Value> = { read(): Value; write(value: Value): void };

/** `check` raises AppError invalid for what is not such a value. Readable by the server alone: it may hold secrets. */
export function openStateFile<Value>(file: string, none: Value, check: (value: unknown) => Value): StateFile<Value> {
  return {
    read() {
      if (!existsSync(file)) return none;
      try {
        return check(JSON.parse(readFileSync(file, 'utf8')));
      } catch (cause) {
        throw new AppError('invalid', `${file}: it cannot be read; put a good copy in its place or remove it`, { cause });
      }
    },
    write(value) {
      const temporary = `${file}.new`;
      const fd = openSync(temporary, 'w', 0o600);
      try {
        writeSync(fd, `${JSON.stringify(value, null, 2)}\n`);
        fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
      renameSync(temporary, file);
      const folder = openSync(dirname(file), 'r');
      fsyncSync(folder);
      closeSync(folder);
    },
  };
}
