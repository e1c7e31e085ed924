import { parseArgs } from 'node:util';
import { AppError } from '#base/error.ts';

/** Where servers keep node.toml. */
const defaultConfigFile = '/etc/holdfast/node.toml';

/** The file named by `--config FILE`, or the default. Raises AppError invalid naming an argument that is not known. */
export function readConfigArgument(args: string[]): string {
  try {
    return parseArgs({ args, options: { config: { type: 'string' } } }).values.config ?? defaultConfigFile;
  } catch (cause) {
    throw new AppError('invalid', `arguments ${args.join(' ')}: only --config FILE is known`, { cause });
  }
}
