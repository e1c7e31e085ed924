import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createClock } from '#adapters/clock/boot-clock.ts';
import { AppError } from '#base/error.ts';
import { defaultReplicationJob } from '#core/replica/records.ts';
import { withRest } from './without-rest.ts';
import { createPointLock } from '#programs/replication/point-lock.ts';
import { createDirDriver } from '#programs/replication/dir-driver.ts';
import { createReplication } from '#programs/replication/replication.ts';
import { imageUser, openStorage } from './dir-rig.ts';

/**
 * The receiving half of an agent as a process of its own, to be killed: `receiver-process.ts DIRECTORY KEEP`. Who is home it reads from
 * `home.json` beside the directory, as an agent reads the record.
 */
const [directory = '', keep = '{}'] = process.argv.slice(2);
const storage = await openStorage(directory, []);
const common = {
  run: join(directory, 'run'),
  clock: createClock(),
  log: (text: string) => void process.stdout.write(`${text}\n`),
};
const scratch = { scratch: join(directory, 'scratch'), scratchLimitBytes: 1 << 30 };
const replication = createReplication({
  driver: createDirDriver({
    node: 'receiver',
    storage,
    points: createPointLock(),
    withRest,
    ...scratch,
    user: imageUser,
    ...common,
  }),
  ...common,
  authorize: async (vmid, sender, generation) => {
    const file = join(directory, '../home.json');
    const home = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as { node: string; generation: number }) : null;
    if (home?.node !== sender || home.generation !== generation)
      throw new AppError('denied', `guest ${vmid}: ${sender} is not home`);
  },
  publish: async () => {},
  readPeers: () => [],
  readJob: (vmid) => ({ vmid, ...defaultReplicationJob, keep: JSON.parse(keep) as typeof defaultReplicationJob.keep }),
  readConfigSha256: () => '',
});
await replication.serve(new AbortController().signal);
