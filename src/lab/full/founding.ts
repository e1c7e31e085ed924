import { fullLimits } from './full-limits.ts';
import { stickFolder } from './full-room.ts';
import type { Machine } from './machine.ts';

/** Tells what is going on: one line. */
export type Say = (line: string) => void;

/** Everything in a founded machine is where a user has it. */
export const data = '/var/lib/holdfast';

/** Each machine's pool, and the dataset that `holdfast pool create` makes in it for guests. */
export const pool = 'tank';
export const dataset = `${pool}/holdfast`;

/** Installs our package as a user does. The machine has what it depends on already: it reaches no mirror. */
export async function installPackage(machine: Machine): Promise<void> {
  const { shell } = machine;
  await shell.must(`mount -o ro /dev/disk/by-id/virtio-stick ${stickFolder}`);
  await shell.must(`apt-get install -y --no-install-recommends ${stickFolder}/first.deb`, {
    deadlineMs: fullLimits.installMs,
  });
}

/** A RAID-Z1 of the machine's three disks by their own names, made by our own plan, as docs/pools.md says. */
export async function makePool(machine: Machine): Promise<void> {
  const disks = machine.disks.map(({ serial }) => `virtio-${serial}`).join(' ');
  await machine.shell.must(`holdfast pool create ${pool} ${disks} --yes`);
}

/** Kernels for direct boot, where agents look for them. */
export async function placeAssets(machine: Machine): Promise<void> {
  await machine.shell.must(`mkdir -p ${data}/assets && cp ${stickFolder}/assets/* ${data}/assets/ && chmod 755 ${data}/assets`);
}

/** Founds the cluster on the machine that is the first, or lets it join at the first, each with the commands of docs/install.md. */
export async function becomeNode(machine: Machine, first: Machine, say: Say): Promise<void> {
  // Emulation: nothing of the design's bounds is loosened, the profile for slow machines is taken.
  const fit = `--profile lenient --dataset ${dataset}`;
  const options = { deadlineMs: fullLimits.foundMs, onLine: (line: string) => say(`${machine.name}: ${line}`) };
  if (machine === first) {
    await machine.shell.must(`holdfast init --cluster-name Clinic ${fit}`, options);
    return;
  }
  const code = (await first.shell.must('holdfast join-code', options)).trim();
  await machine.shell.must(`holdfast join ${fit}`, { ...options, input: `${code}\n` });
}
