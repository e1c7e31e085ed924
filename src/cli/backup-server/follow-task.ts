import { AppError } from '#base/error.ts';
import type { CliWorld } from '#cli/world.ts';
import type { Ask } from './reach-server.ts';

const pollMs = 300;
const linesAtOnce = 1_000;

/** Tells what a task says until it ends. Raises AppError conflict when it failed. Ctrl-C leaves it running. */
export async function followTask(world: CliWorld, ask: Ask, upid: string): Promise<string> {
  const path = `nodes/localhost/tasks/${encodeURIComponent(upid)}`;
  let told = 0;
  const tell = async (): Promise<void> => {
    for (;;) {
      const lines = (await ask('GET', `${path}/log`, { start: told, limit: linesAtOnce })) as { n: number; t: string }[];
      for (const { t } of lines) world.err.write(`${t}\n`);
      told += lines.length;
      if (lines.length < linesAtOnce) return;
    }
  };
  try {
    for (;;) {
      const { status, exitstatus } = (await ask('GET', `${path}/status`, {})) as { status: string; exitstatus?: string };
      await tell();
      if (status === 'stopped') {
        if (exitstatus === 'OK' || exitstatus?.startsWith('WARNINGS') === true) return exitstatus;
        throw new AppError('conflict', `the task ended with: ${exitstatus ?? 'no word'}`);
      }
      await world.sleep(pollMs);
    }
  } catch (error) {
    if (world.signal.aborted) world.err.write(`the task goes on; end it with: holdfast backup-server task stop ${upid}\n`);
    throw error;
  }
}
