import { join } from 'node:path';
import { AppError } from '#base/error.ts';
import { runCommand } from '#lab/images/command.ts';
import { compileStatic } from '#lab/images/initramfs.ts';
import { fullLimits } from './full-limits.ts';

const source = join(import.meta.dirname, '../guests/tsc-rate.c');

/**
 * How fast this host's time stamp counter counts, in kHz. An emulated machine sees the host's own counter, and would measure it against a timer of its
 * emulator: on a busy host that comes out wrong by a factor (three was seen), and all its clocks with it. Raises AppError unavailable.
 */
export async function measureTscKhz(folder: string): Promise<number> {
  const program = join(folder, 'tsc-rate');
  await compileStatic(source, program);
  const khz = Number((await runCommand(program, [], { deadlineMs: fullLimits.monitorMs })).toString());
  if (Number.isInteger(khz) && khz > 0) return khz;
  throw new AppError('unavailable', 'full lab: the rate of this host’s time stamp counter could not be measured');
}
