import { readFileSync } from 'node:fs';
import { AppError } from '#base/error.ts';

/**
 * Where the version-2 control group tree is mounted: `/sys/fs/cgroup` on today's systems, `/sys/fs/cgroup/unified` on hybrid ones.
 * `mounts` is the text of /proc/mounts. Raises AppError unsupported when there is none.
 */
export function findCgroup2Mount(mounts: string = readFileSync('/proc/mounts', 'utf8')): string {
  for (const line of mounts.split('\n')) {
    const [, directory, type] = line.split(' ');
    if (type === 'cgroup2' && directory !== undefined) return unescapeMount(directory);
  }
  throw new AppError('unsupported', 'no cgroup2 file system is mounted; HA guests need control groups of version 2');
}

/** proc(5): blanks in mount points are written as octal escapes. */
function unescapeMount(directory: string): string {
  return directory.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
