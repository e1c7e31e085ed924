/**
 * The supervisor of a lab node, in the place of systemd: starts the store and our programs, restarts what ends (never the guard:
 * its death is for the watchdog to answer), keeps each in its own control group. Tells what happens as JSON lines on standard
 * output, which the room reads.
 *
 * Arguments: --services FILE (an InitPlan) --socket PATH (takes InitRequests).
 */
import { readFileSync, mkdirSync, writeSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { assert } from '#base/assert.ts';
import { AppError } from '#base/error.ts';
import { labLimits } from '#lab/lab-limits.ts';
import { serveJson } from '#lab/json-socket.ts';
import { createGuestPriority } from '#lab/node/cpu-priority.ts';
import type { InitPlan, InitRequest, ServiceState } from '#lab/node/init-messages.ts';
import { createService, type Service } from '#lab/node/service.ts';

const { values: options } = parseArgs({ options: { services: { type: 'string' }, socket: { type: 'string' } } });
assert(options.services !== undefined && options.socket !== undefined, 'init: argument missing');
const plan = JSON.parse(readFileSync(options.services, 'utf8')) as InitPlan;

const report = (event: Record<string, unknown>) => writeSync(1, `${JSON.stringify({ atMs: Date.now(), ...event })}\n`);

mkdirSync(plan.logDirectory, { recursive: true });
const services = new Map<string, Service>(
  plan.services.map((spec) => [
    spec.name,
    createService(spec, { sysGroup: plan.sysGroup, logDirectory: plan.logDirectory, report }),
  ]),
);

function findService(name: string): Service {
  const service = services.get(name);
  if (service === undefined) {
    throw new AppError('missing', `no service ${JSON.stringify(name)}; there are ${[...services.keys()].join(', ')}`);
  }
  return service;
}

async function answer(request: InitRequest): Promise<ServiceState[]> {
  if (request.op !== 'list') {
    const wanted = request.services.map(findService);
    if (request.op === 'start') for (const service of wanted) service.start();
    else await Promise.all(wanted.map((service) => service.stop()));
  }
  return [...services.values()].map((service) => service.state());
}

await serveJson(options.socket, answer);
for (const spec of plan.services) if (!plan.held.includes(spec.name)) findService(spec.name).start();
setInterval(createGuestPriority(plan.haGroup, plan.guestNice), labLimits.guestNiceMs);
report({ event: 'system-up' });
