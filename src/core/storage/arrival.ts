import { AppError } from '#base/error.ts';
import type { Manifest } from './manifest.ts';

/**
 * Where the content of a primary copy's disks comes from while its guest lives on them already: the lowest layer of each disk is being filled from
 * a backup, the guest writes to the layer above.
 */
export type Arrival = {
  /** The request that asked for it: a repeated one finds what it began. */
  request: string;
  /** The backup: its target, the guest that was backed up, and when. */
  target: string;
  from: { vmid: number; atSeconds: number };
  /** How each disk's content is cut up there, by the disk's name. `csum`: of the index, in hex; another one is another backup. */
  disks: Record<string, { chunkBytes: number; csum: string }>;
  /** All of it is here: these are ordinary disks. */
  isComplete: boolean;
  /** The upper layers' headers name the lower ones: a hint for people, which cannot be written while a QEMU has them open. */
  isNamed: boolean;
};

/** A manifest that may tell of an arrival; everything that does not look for it keeps it as it is. */
export type ArrivingManifest = Manifest & { arrival?: Arrival };

/** Where the disks came or come from; null: from nowhere. */
export function arrivalOf(manifest: Manifest): Arrival | null {
  return (manifest as ArrivingManifest).arrival ?? null;
}

/** True while some of the content is not here. What was demoted since, and what was promoted, is made of points. */
export function isArriving(manifest: Manifest): boolean {
  const { role, promotedFrom } = manifest;
  return role === 'primary' && promotedFrom === null && arrivalOf(manifest)?.isComplete === false;
}

export function withArrival(manifest: Manifest, arrival: Arrival): ArrivingManifest {
  return { ...manifest, arrival };
}

/** Raises AppError busy while some of the content is not here: what lies here is no whole disk. */
export function refuseArriving(manifest: Manifest, what: string): void {
  if (!isArriving(manifest)) return;
  throw new AppError(
    'busy',
    `${what} guest ${manifest.vmid}: its disks still stream in from a backup; ask again once they are complete`,
  );
}

/** Beside a disk's lowest layer: which of its chunks are there, a bit each. */
export function chunkMapName(disk: string): string {
  return `${disk}-base.chunks`;
}

/** QEMU's nodes of a disk that streams in: the file of the layer that the guest writes to, what it reads from until all is here, and from then on. */
export function arrivingNodes(disk: string): { ownFile: string; content: string; base: string } {
  return { ownFile: `own-${disk}`, content: `live-${disk}`, base: `base-${disk}` };
}

/** Raises AppError invalid, beginning with `file`, when a manifest tells of an arrival that makes no sense. */
export function checkArrival(manifest: Manifest, file: string): void {
  if (!isArriving(manifest)) return;
  const { request, target, from, disks } = arrivalOf(manifest) as Partial<Arrival>;
  const isShaped = typeof request === 'string' && typeof target === 'string';
  const isFrom = Number.isSafeInteger(from?.vmid) && Number.isSafeInteger(from?.atSeconds);
  const areCut = manifest.disks.every(({ name }) => (disks?.[name]?.chunkBytes ?? 0) > 0);
  if (!isShaped || !isFrom || !areCut)
    throw new AppError('invalid', `${file}: nobody can tell where its disks come from; the copy cannot be used`);
}
