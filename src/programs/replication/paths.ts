import { join } from 'node:path';
import { incomingSocketName } from '#adapters/dir/incoming.ts';
import { incomingStreamName } from '#adapters/zfs/incoming.ts';

/** Where agent and relay of one node meet, all under the node's run folder. */
export const runPaths = {
  /** The relay takes orders for tunnels here. */
  relayControl: (run: string) => join(run, 'relay.sock'),
  /** The relay's tunnels end here, one socket each. */
  relayTunnels: (run: string) => join(run, 'relay'),
  /** The agent's receive service. */
  replicaService: (run: string) => join(run, 'replica.sock'),
  /** Storage daemons. */
  storage: (run: string) => join(run, 'replica'),
  /** What a guest reads from while its disks stream in. */
  arrival: (run: string, vmid: number) => join(run, 'arrivals', `${vmid}.nbd`),
  /** The NBD server that takes a guest's point in from one peer. */
  incomingNbd: (run: string, vmid: number, peer: string) => join(run, 'replica', String(vmid), incomingSocketName(peer)),
  /** Where one disk's stream is taken in from one peer. */
  incomingStream: (run: string, vmid: number, peer: string, disk: string) =>
    join(run, 'replica', incomingStreamName(vmid, peer, disk)),
} as const;
