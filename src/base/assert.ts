/**
 * A broken assumption ends the process: fencing depends on honest death, so a program that no longer understands its own
 * state must not go on. Programs install no handler that swallows this.
 */
export class BrokenAssumption extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'BrokenAssumption';
  }
}

/** Throws BrokenAssumption when `condition` is false. Stays on in production. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new BrokenAssumption(message);
}

/** For the default branch of an exhaustive switch. */
export function unreachable(value: never, what: string): never {
  throw new BrokenAssumption(`${what}: unexpected ${JSON.stringify(value)}`);
}
