import { isAppError } from '#base/error.ts';
import { operate, type Stage } from '#lab/drills/manager/stage.ts';
import { labStatus, plug, startService } from '#lab/lab.ts';

/** After a scene that broke off: power, services and the manager's own state as scenes expect them. What is in order already stays. */
export async function restoreLab(stage: Stage): Promise<void> {
  const status = await labStatus(stage.lab);
  for (const node of status.nodes) {
    if (node.power === 'off') await plug(stage.lab, node.name, 'on');
    else for (const service of ['etcd', 'agent']) await ignoreRefusal(() => startService(stage.lab, node.name, service));
  }
  await operate(stage, ['ha', 'arm']);
  for (const node of stage.nodes) await operate(stage, ['ha', 'undrain', node]);
}

async function ignoreRefusal(work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!isAppError(error)) throw error;
  }
}
