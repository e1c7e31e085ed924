import { parseArgs } from 'node:util';
import { AppError, exitCodeOf, formatErrorChain, isAppError } from '#base/error.ts';
import { createLog } from '#programs/log.ts';
import { readNodeConfig } from '#programs/node-config.ts';
import { choosePatience } from './patience.ts';
import { startRelay } from './relay.ts';

/** `relay/main.ts --config FILE`: carries replication between nodes. It holds no state; whoever kills it costs one cycle. */
async function main(): Promise<void> {
  const { values } = parseArgs({ options: { config: { type: 'string' } } });
  if (values.config === undefined) throw new AppError('invalid', 'relay: --config FILE is missing');
  const config = readNodeConfig(values.config);
  if (config.etcd.tls === null) throw new AppError('invalid', `relay: ${config.file} names no ca, cert and key under [etcd]`);
  const log = createLog('relay', config.node.name);
  await startRelay({
    run: config.node.run,
    address: config.node.address,
    port: config.relay.port,
    tls: config.etcd.tls,
    user: { uid: config.guests.uid, gid: config.guests.gid },
    patience: choosePatience(config.storage.driver),
    log: (text) => log.info({ event: 'relay.said' }, text),
  });
  log.info({ event: 'relay.started', address: config.node.address, port: config.relay.port }, 'relay listens');
}

try {
  await main();
} catch (error) {
  process.stderr.write(`${formatErrorChain(error)}\n`);
  process.exit(isAppError(error) ? exitCodeOf(error.kind) : 1);
}
