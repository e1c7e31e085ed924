/**
 * Stands in for systemctl inside a lab node: our units are the services of the node's init. Knows what `holdfast init`, `join` and
 * `leave` ask for. Environment: INIT_SOCKET.
 */
import { askJson } from '#lab/json-socket.ts';
import type { InitRequest, ServiceState } from '#lab/node/init-messages.ts';

/** Units that have no process of their own in a lab: its guests' group is there from boot. */
const withoutProcess = ['guests', 'node-end'];

const args = process.argv.slice(2).filter((argument) => argument !== '--quiet');
const verb = args[0] ?? '';
const services = args
  .flatMap((argument) => /^holdfast-(.*)\.service$/.exec(argument)?.[1] ?? [])
  .filter((service) => !withoutProcess.includes(service));

function ask(request: InitRequest): Promise<ServiceState[]> {
  return askJson(`systemctl ${args.join(' ')}`, process.env['INIT_SOCKET'] ?? '', request, 20_000);
}

if (verb === '--version') process.stdout.write('systemd 252 (252.1)\n');
else if (services.length === 0 && args.length > 1) process.exitCode = 0;
else if (verb === 'is-active') {
  const states = await ask({ op: 'list' });
  process.exitCode = states.some((state) => services.includes(state.name) && state.running) ? 0 : 3;
} else if (verb === 'enable' && args[1] === '--now') await ask({ op: 'start', services });
else if (verb === 'disable' && args[1] === '--now') await ask({ op: 'stop', services });
else {
  process.stderr.write(`fake systemctl: ${args.join(' ')} is not known\n`);
  process.exitCode = 1;
}
