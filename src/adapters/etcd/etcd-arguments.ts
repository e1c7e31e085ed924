import { assert } from '#base/assert.ts';
import type { EtcdTls } from './etcd-connection.ts';

export type EtcdMemberPlan = {
  name: string;
  dataDirectory: string;
  /** IP address this member listens on and the others reach it at. */
  address: string;
  clientPort: number;
  peerPort: number;
  /** Every member the cluster starts with, this one included. */
  initialMembers: { name: string; address: string; peerPort: number }[];
  /** The cluster's id: members of different clusters that meet on one network refuse each other. */
  clusterToken: string;
  /** existing: this member was added to a running cluster. Ignored by etcd once its data directory is filled. */
  initialState: 'new' | 'existing';
  /** Certificate for peers and clients alike, both ways; null only for experiments on loopback. */
  tls: EtcdTls | null;
  timing?: { heartbeatMs: number; electionMs: number };
};

/** A leader is missed after the election time; ten heartbeats may be lost first (etcd's tuning advice: ten times the round trip). */
export const etcdTiming = { heartbeatMs: 100, electionMs: 1_000 } as const;

/** For machines that are so slow that they need the lenient timing profile: a member is not missed because its processor was elsewhere. */
export const lenientEtcdTiming = { heartbeatMs: 300, electionMs: 3_000 } as const;

/** The whole record is a few megabytes; at the quota etcd refuses writes, so keep it far away yet bounded. */
const quotaBytes = 1 << 30;

/** Raft entries kept in memory for slow members; etcd 3.4's default of 100 000 costs hundreds of megabytes under heartbeats. */
const snapshotEntries = 10_000;

/** History kept for watches that resume: longer than any reboot of a switch or node; heartbeats alone make four revisions a second. */
const historyKept = '1h';

/**
 * The arguments of one etcd 3.4 member (Debian's package), without the program's name: used by the lab.
 * No secret is among them: certificates and keys are named by file.
 */
export function formatEtcdArguments(plan: EtcdMemberPlan): string[] {
  const scheme = plan.tls === null ? 'http' : 'https';
  const clientUrl = formatUrl(scheme, plan.address, plan.clientPort);
  const peerUrl = formatUrl(scheme, plan.address, plan.peerPort);
  const timing = plan.timing ?? etcdTiming;
  const initialCluster = plan.initialMembers.map(
    (member) => `${member.name}=${formatUrl(scheme, member.address, member.peerPort)}`,
  );
  return [
    `--name=${plan.name}`,
    `--data-dir=${plan.dataDirectory}`,
    `--listen-client-urls=${clientUrl}`,
    `--advertise-client-urls=${clientUrl}`,
    `--listen-peer-urls=${peerUrl}`,
    `--initial-advertise-peer-urls=${peerUrl}`,
    `--initial-cluster=${initialCluster.join(',')}`,
    `--initial-cluster-token=${plan.clusterToken}`,
    `--initial-cluster-state=${plan.initialState}`,
    `--heartbeat-interval=${timing.heartbeatMs}`,
    `--election-timeout=${timing.electionMs}`,
    // A member that comes back from behind a cut cable must not depose a healthy leader just by having waited.
    '--pre-vote=true',
    '--auto-compaction-mode=periodic',
    `--auto-compaction-retention=${historyKept}`,
    `--quota-backend-bytes=${quotaBytes}`,
    `--snapshot-count=${snapshotEntries}`,
    '--logger=zap',
    '--log-outputs=stderr',
    '--log-level=warn',
    ...formatTlsArguments(plan.tls),
  ];
}

/** The same as the lines of an environment file for systemd: etcd takes every argument from ETCD_NAME_OF_IT as well. */
export function formatEtcdEnvironment(plan: EtcdMemberPlan): string {
  const lines = formatEtcdArguments(plan).map((argument) => {
    const [, name, value] = /^--([a-z-]+)=(.*)$/.exec(argument) ?? [];
    assert(name !== undefined && value !== undefined, `etcd argument ${argument} has no value`);
    return `ETCD_${name.replaceAll('-', '_').toUpperCase()}=${value}\n`;
  });
  return lines.join('');
}

function formatTlsArguments(tls: EtcdTls | null): string[] {
  if (tls === null) return [];
  return [
    '--client-cert-auth=true',
    `--trusted-ca-file=${tls.caFile}`,
    `--cert-file=${tls.certFile}`,
    `--key-file=${tls.keyFile}`,
    '--peer-client-cert-auth=true',
    `--peer-trusted-ca-file=${tls.caFile}`,
    `--peer-cert-file=${tls.certFile}`,
    `--peer-key-file=${tls.keyFile}`,
  ];
}

function formatUrl(scheme: string, address: string, port: number): string {
  return `${scheme}://${address.includes(':') ? `[${address}]` : address}:${port}`;
}
