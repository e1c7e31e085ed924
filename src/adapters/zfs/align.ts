import { AppError } from '#base/error.ts';
import type { AlignStep } from '#core/storage/zfs/align-plan.ts';
import {
  cloneSnapshot,
  promoteClone,
  receiveAbort,
  renameDataset,
  rollbackTo,
  takeSnapshot,
  type DiskProperty,
} from '#core/storage/zfs/commands.ts';
import { runZfsWhenFree } from './zfs-command.ts';

/** What a copy that nobody runs looks like: nothing on this node sees it. */
export function restProperties(type: 'volume' | 'filesystem'): DiskProperty[] {
  const quiet: DiskProperty[] = type === 'volume' ? [{ volmode: 'none' }] : [{ canmount: 'noauto' }, { mountpoint: 'none' }];
  return [{ readonly: 'on' }, ...quiet];
}

/** Carries out one step of `planAlign` on a disk. Each may be repeated after a crash: the plan is made anew from what is there. */
export async function performAlign(
  step: AlignStep,
  disk: { live: string; aside: string; type: 'volume' | 'filesystem' },
): Promise<void> {
  switch (step.do) {
    case 'forget-partial':
      return void (await runZfsWhenFree(receiveAbort(disk.live)));
    case 'rollback':
      return void (await runZfsWhenFree(rollbackTo(disk.live, step.to)));
    case 'snapshot-live':
      return void (await runZfsWhenFree(takeSnapshot([disk.live], step.name, {})));
    case 'rename-aside':
      return void (await runZfsWhenFree(renameDataset(disk.live, disk.aside, disk.type)));
    case 'clone':
      return void (await runZfsWhenFree(cloneSnapshot(disk.aside, step.snapshot, disk.live, restProperties(disk.type))));
    case 'promote':
      return void (await runZfsWhenFree(promoteClone(disk.live)));
    default:
      throw new AppError('unsupported', `there is no step ${JSON.stringify(step satisfies never)}`);
  }
}
