import { comparePoints, type GuestRecord, type ReplicaPoint } from '#core/guest/guest-record.ts';
import type { HaResource } from '#core/ha/records.ts';
import type { ReplicaRecord } from '#core/replica/records.ts';

/**
 * Where a guest goes whose node was claimed: only where a verified replica lies, freshest first, within the guest's data-age
 * limit, with room for it; then the node with fewer guests, then by name.
 */
export type RecoveryNode = {
  name: string;
  epoch: number;
  /** Granted, fresh, serving, agent alive, no problems. */
  usable: boolean;
  because: string;
  freeMemoryMb: number;
  guestCount: number;
};

export type RecoveryChoice =
  | { kind: 'place'; node: string; nodeEpoch: number; promote: ReplicaPoint; dataAgeMs: number; because: string }
  | { kind: 'defer'; because: string };

/**
 * `lastAliveAtMs` is the wall clock that the lost node wrote in its last heartbeat; replicas carry the same node's wall clock at
 * their point, so the difference is the age of the data at the loss, free of clock differences between nodes.
 */
export function planRecovery(
  guest: GuestRecord,
  resource: HaResource,
  replicas: ReplicaRecord[],
  nodes: RecoveryNode[],
  lastAliveAtMs: number,
): RecoveryChoice {
  const reasons: string[] = [];
  const candidates = replicas
    .filter((replica) => replica.vmid === guest.vmid && replica.node !== guest.home)
    .sort((a, b) => comparePoints(b.point, a.point) || a.node.localeCompare(b.node));
  const fitting: { replica: ReplicaRecord; node: RecoveryNode; dataAgeMs: number }[] = [];
  for (const replica of candidates) {
    const node = nodes.find((entry) => entry.name === replica.node);
    const dataAgeMs = Math.max(0, lastAliveAtMs - replica.pointAtMs);
    const refusal = whyNot(guest, resource, replica, node, dataAgeMs);
    if (refusal !== null) reasons.push(refusal);
    else if (node !== undefined) fitting.push({ replica, node, dataAgeMs });
  }
  const best = fitting[0];
  if (best === undefined) {
    return {
      kind: 'defer',
      because: reasons.length > 0 ? reasons.join('; ') : `no verified replica of guest ${guest.vmid} on any node`,
    };
  }
  const equals = fitting.filter((entry) => comparePoints(entry.replica.point, best.replica.point) === 0);
  equals.sort((a, b) => a.node.guestCount - b.node.guestCount || a.node.name.localeCompare(b.node.name));
  const chosen = equals[0] ?? best;
  const point = chosen.replica.point;
  return {
    kind: 'place',
    node: chosen.node.name,
    nodeEpoch: chosen.node.epoch,
    promote: point,
    dataAgeMs: chosen.dataAgeMs,
    because:
      `freshest verified copy that may be used: generation ${point.generation} point ${point.seq} on ${chosen.node.name}, ` +
      `${chosen.dataAgeMs} ms old at the loss${reasons.length > 0 ? ` (passed over: ${reasons.join('; ')})` : ''}`,
  };
}

function whyNot(
  guest: GuestRecord,
  resource: HaResource,
  replica: ReplicaRecord,
  node: RecoveryNode | undefined,
  dataAgeMs: number,
): string | null {
  if (node === undefined) return `${replica.node}: not a node of the cluster`;
  const declined = guest.declined?.findLast((copy) => copy.node === replica.node);
  if (declined !== undefined && comparePoints(replica.point, declined.point) <= 0) return `${node.name}: ${declined.because}`;
  if (!node.usable) return `${node.name}: ${node.because}`;
  if (node.freeMemoryMb < guest.config.memoryMb) {
    return `${node.name}: ${node.freeMemoryMb} MiB free, ${guest.config.memoryMb} MiB needed`;
  }
  if (resource.maxDataAgeMs !== null && dataAgeMs > resource.maxDataAgeMs) {
    return `${node.name}: its copy is ${dataAgeMs} ms old, the limit is ${resource.maxDataAgeMs} ms`;
  }
  return null;
}
