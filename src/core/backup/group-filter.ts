import { AppError } from '#base/error.ts';
import { parseBackupId, parseBackupType, type BackupType } from './names.ts';

/** Which groups a sync is about. */
export type GroupFilter = { isExclude: boolean; matches: (type: BackupType, id: string) => boolean };

/** Reads `[include:|exclude:](all|type:TYPE|group:TYPE/ID|regex:EXPRESSION)`. Raises AppError invalid, naming `field`. */
export function parseGroupFilter(text: string, field = 'group-filter'): GroupFilter {
  const parts = /^(?:(include|exclude):)?(all|type:(.+)|group:([^/]+)\/(.+)|regex:(.+))$/.exec(text);
  if (parts === null || text.length > 256) {
    throw new AppError(
      'invalid',
      `${field}: ${JSON.stringify(text.slice(0, 80))} is none of all, type:TYPE, group:TYPE/ID, regex:EXPRESSION`,
    );
  }
  const [, sign, , wantedType, groupType, groupId, expression] = parts;
  const isExclude = sign === 'exclude';
  if (wantedType !== undefined) {
    const type = parseBackupType(wantedType, field);
    return { isExclude, matches: (found) => found === type };
  }
  if (groupType !== undefined) {
    const [type, wanted] = [parseBackupType(groupType, field), parseBackupId(groupId, field)];
    return { isExclude, matches: (found, id) => found === type && id === wanted };
  }
  if (expression === undefined) return { isExclude, matches: () => true };
  const compiled = compile(expression, field);
  return { isExclude, matches: (type, id) => compiled.test(`${type}/${id}`) };
}

/** What is included, all when nothing is said of that, less what is excluded. */
export function isChosen(filters: readonly GroupFilter[], type: BackupType, id: string): boolean {
  const includes = filters.filter(({ isExclude }) => !isExclude);
  const isIncluded = includes.length === 0 || includes.some(({ matches }) => matches(type, id));
  return isIncluded && !filters.some(({ isExclude, matches }) => isExclude && matches(type, id));
}

function compile(expression: string, field: string): RegExp {
  try {
    return new RegExp(expression);
  } catch (cause) {
    throw new AppError('invalid', `${field}: ${JSON.stringify(expression)} is no regular expression`, { cause });
  }
}
