/** What node.toml says; see programs/node-config.ts, which reads it. */
export type NodeSettings = {
  name: string;
  cluster: string;
  /** null: the cluster does not tell machines of one name apart. */
  machine: string | null;
  address: string;
  data: string;
  run: string;
  endpoints: string[];
  tls: { caFile: string; certFile: string; keyFile: string };
  profile: string;
  watchdog: string;
  cgroup: string;
  uid: number;
  gid: number;
  accelerator: 'auto' | 'kvm' | 'tcg';
  relayPort: number;
  /** Dataset of a pool in which guests' disks lie; null or left out: they are files below `data`. */
  dataset?: string | null;
};

/** The node's own configuration, as an operator would write it. */
export function formatNodeToml(settings: NodeSettings): string {
  const text = JSON.stringify; // TOML's basic strings are JSON's
  return `[node]
name = ${text(settings.name)}
cluster = ${text(settings.cluster)}
${settings.machine === null ? '' : `machine = ${text(settings.machine)}\n`}address = ${text(settings.address)}
data = ${text(settings.data)}
run = ${text(settings.run)}

[etcd]
endpoints = [${settings.endpoints.map((endpoint) => text(endpoint)).join(', ')}]
ca = ${text(settings.tls.caFile)}
cert = ${text(settings.tls.certFile)}
key = ${text(settings.tls.keyFile)}

[timing]
profile = ${text(settings.profile)}

[watchdog]
device = ${text(settings.watchdog)}

[guests]
cgroup = ${text(settings.cgroup)}
uid = ${settings.uid}
gid = ${settings.gid}
accelerator = ${text(settings.accelerator)}

[relay]
port = ${settings.relayPort}
${settings.dataset === null || settings.dataset === undefined ? '' : `\n[storage]\ndriver = "zfs"\ndataset = ${text(settings.dataset)}\n`}`;
}
