import { AppError, formatErrorChain, isAppError, type ErrorKind } from '#base/error.ts';
import type { Trouble } from './chunk-jobs.ts';

/** An error as another thread can be told of it. */
export function describeTrouble(error: unknown): Trouble {
  if (isAppError(error)) {
    return { kind: error.kind, message: error.message, cause: error.cause === undefined ? null : formatErrorChain(error.cause) };
  }
  return { kind: null, message: formatErrorChain(error), cause: null };
}

/** The error again. */
export function raiseTrouble({ kind, message, cause }: Trouble): Error {
  if (kind === null) return new Error(message);
  return new AppError(kind as ErrorKind, message, cause === null ? {} : { cause: new Error(cause) });
}
