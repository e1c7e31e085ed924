import { randomBytes } from 'node:crypto';
import { constants, copyFileSync, linkSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createAuthority, issueCertificate } from '#adapters/pki/authority.ts';
import { formatNodeToml } from '#core/cluster/node-toml.ts';
import { type TimingProfileName, timingProfiles } from '#core/ha/timing.ts';
import { nodeView, storeEndpoints } from '#lab/founding/services.ts';
import { labPaths, nodePaths } from '#lab/lab-paths.ts';
import type { LabNode, LabSpec } from '#lab/lab-spec.ts';

/** Numbers that no account of the host has: QEMU runs as them. */
const guestUser = { uid: 64_077, gid: 64_077 } as const;

const relayPort = 7711;

export type NodeFilesOptions = {
  clusterId: string;
  timingProfile: TimingProfileName;
  accelerator: 'auto' | 'kvm' | 'tcg';
  /** Name in the node's assets folder -> file on this host. */
  assets: Record<string, string>;
};

/** Makes the cluster's authority, a client certificate for people, and what each node has in /etc/holdfast and its assets folder. */
export async function writeClusterFiles(spec: LabSpec, options: NodeFilesOptions): Promise<void> {
  const { pki } = labPaths(spec.name);
  await createAuthority(pki, { clusterName: spec.name });
  const out = { certFile: join(pki, 'client.pem'), keyFile: join(pki, 'client.key') };
  await issueCertificate(pki, { name: 'operator', addresses: [], kind: 'client', out });
  for (const node of spec.nodes) writeFileSync(join(pki, `bmc-${node.name}`), `${makePassword()}\n`, { mode: 0o600 });
  for (const node of spec.nodes) await writeNodeFiles(spec, node, options);
}

/** IPMI passwords have at most 20 bytes (IPMI 2.0, 22.30). */
function makePassword(): string {
  return randomBytes(12).toString('base64url');
}

async function writeNodeFiles(spec: LabSpec, node: LabNode, options: NodeFilesOptions): Promise<void> {
  const { pki } = labPaths(spec.name);
  const { etc, data } = nodePaths(spec.name, node.name);
  for (const directory of [join(etc, 'pki'), join(etc, 'secrets')]) mkdirSync(directory, { recursive: true, mode: 0o700 });
  mkdirSync(join(data, 'assets'), { recursive: true });
  mkdirSync(join(data, 'etcd'), { mode: 0o700 });
  copyFileSync(join(pki, 'ca.pem'), join(etc, 'pki', 'ca.pem'));
  await issueCertificate(pki, {
    name: node.name,
    addresses: [node.address],
    kind: 'node',
    out: { certFile: join(etc, 'pki', 'node.pem'), keyFile: join(etc, 'pki', 'node.key') },
  });
  // Each node must be able to ask every other node's controller.
  for (const other of spec.nodes) copyFileSync(join(pki, `bmc-${other.name}`), join(etc, 'secrets', `bmc-${other.name}`));
  for (const [name, file] of Object.entries(options.assets)) placeAsset(file, join(data, 'assets', name));
  writeFileSync(join(etc, 'node.toml'), formatLabToml(spec, node, options));
}

/** A hard link where the file systems allow it: kernels and images are large and never written. */
function placeAsset(from: string, to: string): void {
  try {
    linkSync(from, to);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EXDEV') throw error;
    copyFileSync(from, to, constants.COPYFILE_FICLONE);
  }
}

/** The node's own configuration, as `holdfast init` writes it on a server. */
function formatLabToml(spec: LabSpec, node: LabNode, options: NodeFilesOptions): string {
  return formatNodeToml({
    name: node.name,
    cluster: options.clusterId,
    machine: null,
    address: node.address,
    data: nodeView.data,
    run: nodeView.run,
    endpoints: storeEndpoints(spec.nodes, node.name),
    tls: { caFile: nodeView.caFile, certFile: nodeView.certFile, keyFile: nodeView.keyFile },
    profile: timingProfiles[options.timingProfile].profile,
    watchdog: nodeView.watchdog,
    cgroup: join(spec.cgroup, node.name, 'ha'),
    ...guestUser,
    accelerator: options.accelerator,
    relayPort,
  });
}
