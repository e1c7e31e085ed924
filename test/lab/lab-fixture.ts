import { randomBytes } from 'node:crypto';
import type { TestContext } from 'node:test';
import { labDown, labStatus } from '#lab/lab.ts';
import { type LabEvent, readLabEvents } from '#lab/lab-event.ts';
import type { ServiceSpec } from '#lab/lab-spec.ts';
import { requireLabSpec } from '#lab/lab-spec.ts';
import { labUp, type LabUpOptions } from '#lab/lab-up.ts';
import { readLogEnds } from '#lab/log-ends.ts';

/** A lab that a test forgot lives no longer than this. */
const defaultTtlMs = 10 * 60_000;

export type TestLab = {
  name: string;
  events(): LabEvent[];
  /** Waits for the first event after `sinceMs` (wall clock) for which `wanted` holds. Throws at the deadline, naming `what`. */
  waitForEvent(
    what: string,
    wanted: (event: LabEvent) => boolean,
    options?: { sinceMs?: number; deadlineMs?: number },
  ): Promise<LabEvent>;
};

/**
 * Runs `use` in a lab of its own: unique name, ends with this process, removed whatever happens. When `use` throws, the events of
 * the room and the ends of all logs are printed first.
 */
export async function withLab(
  t: TestContext,
  options: Omit<LabUpOptions, 'name' | 'ownerPid'> & { name?: string },
  use: (lab: TestLab) => Promise<void>,
): Promise<void> {
  const name = options.name ?? `t${randomBytes(4).toString('hex')}`;
  try {
    await labUp({ ttlMs: defaultTtlMs, accelerator: 'tcg', ...options, name, ownerPid: process.pid });
    await use({
      name,
      events: () => readLabEvents(name),
      async waitForEvent(what, wanted, { sinceMs = 0, deadlineMs = 30_000 } = {}) {
        let found: LabEvent | undefined;
        await eventually(what, deadlineMs, () => {
          found = readLabEvents(name).find((event) => event.atMs >= sinceMs && wanted(event));
          return found !== undefined;
        });
        return found!;
      },
    });
  } catch (error) {
    for (const event of readLabEvents(name)) t.diagnostic(JSON.stringify(event));
    try {
      t.diagnostic(readLogEnds(requireLabSpec(name)));
      t.diagnostic(JSON.stringify(await labStatus(name)));
    } catch {
      // the lab is not there any more: its events were all there was
    }
    throw error;
  } finally {
    await labDown(name);
  }
}

/** Looks until `condition` holds. Throws at the deadline, naming `what`. */
export async function eventually(what: string, deadlineMs: number, condition: () => boolean | Promise<boolean>): Promise<void> {
  const untilMs = performance.now() + deadlineMs;
  while (!(await condition())) {
    if (performance.now() > untilMs) throw new Error(`${what}: not within ${deadlineMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** A service that does nothing but live (or runs `script`), in the place of a real program. */
export function stubService(name: string, script = 'exec sleep 100000', overrides: Partial<ServiceSpec> = {}): ServiceSpec {
  return { name, argv: ['/bin/sh', '-c', script], restart: 'always', nice: 0, needsCluster: false, ...overrides };
}
