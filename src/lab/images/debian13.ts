import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '#base/error.ts';
import { readDebianMirror } from './apt-sources.ts';
import { runCommand } from './command.ts';

/** The release that the full lab's machines run, whatever this host runs. */
export const machineSuite = 'trixie';

const updateMs = 300_000;
const bootstrapMs = 900_000;

/** Left out of every root: nobody reads manuals there. */
const leftOut = ['/usr/share/doc/*', '/usr/share/man/*', '/usr/share/locale/*', '/usr/share/i18n/*', '/usr/share/info/*'];

/** Debian 13 from this host's own mirror, as a source file of apt below `directory`; returns its path. */
export function writeMachineSources(directory: string): string {
  const path = join(directory, `${machineSuite}.sources`);
  const lines = [
    'Types: deb',
    `URIs: ${readDebianMirror()}`,
    `Suites: ${machineSuite} ${machineSuite}-updates`,
    // contrib: the source of the OpenZFS module.
    'Components: main contrib',
    'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg',
  ];
  writeFileSync(path, `${lines.join('\n')}\n`);
  return path;
}

/** The versions that the mirror offers, read with a package list of our own below `work`: this host's lists are of another release. */
export type MachineVersions = { kernelAbi: string; kernelVersion: string; zfsVersion: string };

/** Raises AppError unavailable when the mirror cannot be read, missing when it has no cloud kernel or no OpenZFS. */
export async function readMachineVersions(work: string): Promise<MachineVersions> {
  const apt = await openPrivateApt(work);
  const kernel = await apt.show('linux-image-cloud-amd64');
  const image = /^Depends:.*\b(linux-image-\S+-cloud-amd64)\b/m.exec(kernel)?.[1];
  const zfs = await apt.show('zfs-dkms');
  const versionOf = (text: string) => /^Version: (.*)$/m.exec(text)?.[1] ?? '';
  if (image === undefined || versionOf(zfs) === '')
    throw new AppError('missing', `looking for a kernel and OpenZFS: Debian ${machineSuite} at this host's mirror has not both`);
  return {
    kernelAbi: image.replace(/^linux-image-/, ''),
    kernelVersion: versionOf(await apt.show(image)),
    zfsVersion: versionOf(zfs),
  };
}

/** apt with sources, lists and cache of its own below `work`; its lists are fetched. `download` puts one package into a folder. */
async function openPrivateApt(work: string): Promise<{ show: (name: string) => Promise<string> }> {
  const lists = join(work, 'apt', 'lists');
  const archives = join(work, 'apt', 'cache');
  for (const folder of [join(lists, 'partial'), join(archives, 'archives', 'partial')]) mkdirSync(folder, { recursive: true });
  writeFileSync(join(work, 'apt', 'status'), '');
  const settings = {
    'Dir::Etc::SourceList': writeMachineSources(work),
    'Dir::Etc::SourceParts': '/nonexistent',
    'Dir::State::Lists': lists,
    'Dir::State::Status': join(work, 'apt', 'status'),
    'Dir::Cache': archives,
    'APT::Architecture': 'amd64',
    'APT::Sandbox::User': 'root',
    'Acquire::Languages': 'none',
  };
  const options = Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`]);
  await runCommand('apt-get', [...options, 'update', '-q'], { deadlineMs: updateMs });
  return {
    show: async (name) =>
      String(
        await runCommand('apt-cache', [...options, 'show', '--no-all-versions', name], { deadlineMs: updateMs }).catch(() => ''),
      ),
  };
}

export type BootstrapOptions = {
  packages: string[];
  /** Shell commands for mmdebstrap's customize hook; `$1` is the root. */
  hooks?: string[];
  /** What the hooks find in their environment. */
  env?: Record<string, string>;
};

/** Fills the folder `root` with Debian 13 and these packages, nothing recommended. `work`: a folder for the sources file. */
export async function bootstrapDebian13(root: string, work: string, options: BootstrapOptions): Promise<void> {
  const args = [
    '--mode=root',
    '--format=directory',
    '--variant=minbase',
    '--aptopt=Apt::Install-Recommends "false"',
    // A root that is cut off half-way is thrown away: waiting for the disk at each package gains nothing.
    '--dpkgopt=force-unsafe-io',
    ...leftOut.map((path) => `--dpkgopt=path-exclude=${path}`),
    `--include=${options.packages.join(',')}`,
    ...(options.hooks ?? []).map((hook) => `--customize-hook=${hook}`),
  ];
  // Its mounts (this host's /dev/shm among them) are in a namespace of its own and go with it: a folder that is cleared away never has
  // any of them in it. A build that is given up ends with us.
  const apart = ['--pdeathsig', 'KILL', 'unshare', '--mount', '--pid', '--fork', '--kill-child=KILL', '--mount-proc'];
  const build = [...apart, 'mmdebstrap', ...args, machineSuite, root, writeMachineSources(work)];
  await runCommand('setpriv', build, {
    deadlineMs: bootstrapMs,
    env: { ...options.env, DEBIAN_FRONTEND: 'noninteractive' },
  });
}
