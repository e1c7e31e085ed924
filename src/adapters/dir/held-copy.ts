import { describeTail, newestPoint, type Manifest } from '#core/storage/manifest.ts';
import type { GuestCopy } from '#ports/guest-storage.ts';

/** What a node holds of a guest, in the port's words. */
export function describeCopy(manifest: Manifest): GuestCopy {
  const primary = manifest.role === 'primary';
  const newest = primary ? manifest.promotedFrom : newestPoint(manifest);
  return {
    vmid: manifest.vmid,
    role: manifest.role,
    generation: primary ? manifest.generation : (newest?.generation ?? 0),
    point: newest && { generation: newest.generation, seq: newest.seq },
    pointAtMs: newest?.pointAtMs ?? null,
    leftBehind: manifest.leftBehind.map(describeTail),
    handedOver: manifest.handedOver ?? null,
  };
}
