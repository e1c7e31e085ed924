import type { Reach, ReachOptions } from '#cli/world.ts';
import { AppError } from '#base/error.ts';
export function reachCluster(_options: ReachOptions, _argv: string[]): Promise<Reach> {
  throw new AppError('unsupported', 'later');
}
