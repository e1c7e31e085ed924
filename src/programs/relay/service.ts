import { AppError } from '#base/error.ts';
import { parseDiskName, parseVmid } from '#base/ids.ts';

/** What a peer may reach through a relay; nothing else. */
export type Service =
  /** Bytes come back as they are sent; both ends notice when they stop. */
  | { kind: 'heartbeat' }
  /** The agent's receive service, told who calls. */
  | { kind: 'replica' }
  /** The NBD server of the point that this very peer is sending. */
  | { kind: 'nbd'; vmid: number; disk: string }
  /** Where the stream of one disk of that point is taken in. */
  | { kind: 'stream'; vmid: number; disk: string };

/** Reads `heartbeat`, `replica`, `nbd:VMID:DISK` or `stream:VMID:DISK`. Raises AppError denied for anything else. */
export function parseService(text: string): Service {
  if (text === 'heartbeat' || text === 'replica') return { kind: text };
  const [kind, vmid, disk, more] = text.split(':');
  if ((kind !== 'nbd' && kind !== 'stream') || more !== undefined)
    throw new AppError('denied', `no service ${JSON.stringify(text.slice(0, 80))} is offered`);
  return { kind, vmid: parseVmid(vmid, 'service'), disk: parseDiskName(disk, 'service') };
}
