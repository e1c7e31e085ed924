/**
 * How an action went, as in programs/agent/guest-world.ts. `failed` is counted and told under the order; `skipped`: somebody moved first;
 * other trouble is raised.
 */
export type Attempt = { kind: 'done' | 'skipped' } | { kind: 'failed'; error: unknown };

export const done: Attempt = { kind: 'done' };
export const skipped: Attempt = { kind: 'skipped' };
