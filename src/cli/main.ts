/** Entry of `holdfast`: gives the commands the real world and ends with their exit code. */
import { createWorld } from '#cli/process-world.ts';
import { runCli } from '#cli/program.ts';
import { exitCodes } from '#cli/session.ts';

const interrupt = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    // The first asks the command to tidy up; the second no longer waits for that.
    if (interrupt.signal.aborted) process.exit(exitCodes.interrupted);
    interrupt.abort(new Error('interrupted'));
  });
}
// `holdfast ... | head` closes our output early: that is the reader's wish, not a fault.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(exitCodes.ok);
  throw error;
});

const argv = process.argv.slice(2);
process.exitCode = await runCli(argv, createWorld(argv, interrupt.signal));
