import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { AppError, exitCodeOf, formatErrorChain, isAppError } from '#base/error.ts';
import { measureBackup } from '#lab/drills/backup-inside.ts';
import { measureFaults } from '#lab/drills/faults-inside.ts';
import { measureMainJob } from '#lab/drills/main-job-inside.ts';
import { measureManager } from '#lab/drills/manager-inside.ts';
import { measurePulls } from '#lab/drills/pulls-inside.ts';
import { formatClientCommand } from '#lab/lab.ts';

/**
 * Drills measure from where a client is: inside the lab's client namespace, where the store and the guests can be reached. The
 * process on the host starts this file there and hands its options over as one JSON argument (no secret is among them).
 */
const drills = {
  'main-job': measureMainJob,
  pulls: measurePulls,
  faults: measureFaults,
  manager: measureManager,
  backup: measureBackup,
} as const;

/** Runs a drill inside the client namespace of `lab` with our own terminal; returns its exit code. */
export function runInside(lab: string, drill: keyof typeof drills, options: object): Promise<number> {
  const argv = [process.execPath, fileURLToPath(import.meta.url), drill, JSON.stringify(options)];
  const [program, ...args] = formatClientCommand(lab, argv) as [string, ...string[]];
  const child = spawn(program, args, { stdio: 'inherit' });
  return new Promise((resolve, reject) => {
    child.on('error', (cause) =>
      reject(new AppError('unavailable', 'starting the drill in the client namespace failed', { cause })),
    );
    child.on('exit', (code) => resolve(code ?? 1));
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [name, text] = process.argv.slice(2);
  try {
    const drill = drills[name as keyof typeof drills] as ((options: never) => Promise<number>) | undefined;
    if (drill === undefined || text === undefined) throw new AppError('invalid', `drill ${name}: not known`);
    process.exit(await drill(JSON.parse(text) as never));
  } catch (error) {
    if (!isAppError(error)) throw error;
    process.stderr.write(`drill ${name}: ${formatErrorChain(error)}\n`);
    process.exit(exitCodeOf(error.kind));
  }
}
