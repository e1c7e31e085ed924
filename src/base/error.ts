/** The closed list of expected troubles. One table (`exitCodeOf`) maps them to CLI exit codes; nothing else knows codes. */
export type ErrorKind =
  | 'invalid' // bad input: the message names the field
  | 'missing'
  | 'conflict' // somebody moved first, or the state forbids it
  | 'denied'
  | 'unauthenticated'
  | 'busy'
  | 'unavailable'
  | 'timeout'
  | 'unsupported';

const exitCodes: Record<ErrorKind, number> = {
  invalid: 2,
  missing: 3,
  conflict: 4,
  denied: 5,
  unauthenticated: 6,
  busy: 7,
  unavailable: 8,
  timeout: 9,
  unsupported: 10,
};

/**
 * Expected trouble. The message says what we were doing to which object and what to do next; `cause` keeps the lower error.
 * Code branches on `kind`, never on the text.
 */
export class AppError extends Error {
  readonly kind: ErrorKind;

  constructor(kind: ErrorKind, message: string, options: { cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'AppError';
    this.kind = kind;
  }
}

/** The process exit code for a kind of error; 1 is left for broken assumptions. */
export function exitCodeOf(kind: ErrorKind): number {
  return exitCodes[kind];
}

/** The whole chain of causes as one line, outermost first. */
export function formatErrorChain(error: unknown): string {
  const parts: string[] = [];
  let current: unknown = error;
  while (current !== undefined && current !== null && parts.length < 8) {
    parts.push(current instanceof Error ? current.message : typeof current === 'string' ? current : JSON.stringify(current));
    current = current instanceof Error ? current.cause : undefined;
  }
  return parts.join(': ');
}

/** True when `error` is an AppError of one of the given kinds. */
export function isAppError(error: unknown, ...kinds: ErrorKind[]): error is AppError {
  return error instanceof AppError && (kinds.length === 0 || kinds.includes(error.kind));
}
