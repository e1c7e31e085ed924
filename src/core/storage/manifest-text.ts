import { AppError } from '#base/error.ts';
import { parseDiskName } from '#base/ids.ts';
import { checkArrival, isArriving } from './arrival.ts';
import type { Depths, DiskLayers, KeptPoint, Manifest, PinnedTail } from './manifest.ts';

/** Written while some of the content is not here, so that a program that knows nothing of arrivals leaves the copy alone. */
const arrivingVersion = 2;

/** The manifest as it is written to disk. */
export function formatManifest(manifest: Manifest): string {
  const version = isArriving(manifest) ? arrivingVersion : manifest.version;
  return `${JSON.stringify({ ...manifest, version }, null, 1)}\n`;
}

/** Reads a manifest back. Raises AppError invalid, naming `file` and what is wrong in it. */
export function parseManifest(text: string, file: string): Manifest {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new AppError('invalid', `${file}: not JSON; the copy cannot be used`, { cause });
  }
  const written = value as Manifest | null;
  const isMarked = (written?.version as number | undefined) === arrivingVersion;
  const manifest = (isMarked ? { ...written, version: 1 } : written) as Manifest;
  const check = (condition: boolean, what: string) => {
    if (!condition) throw new AppError('invalid', `${file}: ${what}; the copy cannot be used`);
  };
  check(typeof value === 'object' && value !== null, 'not an object');
  check(manifest.version === 1, `version ${JSON.stringify(manifest.version)} is unknown`);
  check(isCount(manifest.vmid) && isCount(manifest.generation) && isCount(manifest.reservedSeq), 'a number is missing');
  check(manifest.role === 'primary' || manifest.role === 'replica', 'role is neither primary nor replica');
  check(
    Array.isArray(manifest.disks) && Array.isArray(manifest.points) && Array.isArray(manifest.leftBehind),
    'a list is missing',
  );
  for (const disk of manifest.disks) checkDisk(disk, check);
  for (const point of manifest.points) checkPoint(point, manifest, check);
  for (const tail of manifest.leftBehind) checkTail(tail, manifest, check);
  if (manifest.handedOver !== undefined) {
    const { point, copiedTo, pointAtMs } = manifest.handedOver;
    check(isCount(point.generation) && isCount(point.seq) && isCount(pointAtMs), 'the point handed over has no proper identity');
    check(manifest.role === 'primary' && Array.isArray(copiedTo), 'only a primary copy is handed over');
  }
  check(manifest.opened === undefined || isCount(manifest.opened), 'opened is no number');
  check(!isMarked || isArriving(manifest), 'it is of a version for disks that stream in, and does not say from where');
  checkArrival(manifest, file);
  const newest = manifest.points.at(-1);
  if (manifest.role === 'replica' && newest !== undefined) {
    for (const [name, depth] of Object.entries(newest.depths)) {
      const layers = manifest.disks.find((disk) => disk.name === name)?.layers.length;
      check(layers === depth, `layers lie above the newest point of ${name}`);
    }
  }
  return manifest;
}

type Check = (condition: boolean, what: string) => void;

function checkDisk(disk: DiskLayers, check: Check): void {
  parseDiskName(disk.name, 'disks.name');
  check(Array.isArray(disk.layers) && disk.layers.length > 0, `disk ${disk.name} has no layers`);
  for (const [index, layer] of disk.layers.entries()) {
    check(/^[a-z0-9][a-z0-9.-]*$/.test(layer.file), `layer ${index} of ${disk.name} has no proper file name`);
    check(layer.format === (index === 0 ? 'raw' : 'qcow2'), `layer ${layer.file} has the wrong format for its place`);
    check(isCount(layer.sizeBytes), `layer ${layer.file} has no size`);
  }
}

function checkPoint(point: KeptPoint, manifest: Manifest, check: Check): void {
  const name = `point ${point.generation}/${point.seq}`;
  check(isCount(point.generation) && isCount(point.seq) && isCount(point.pointAtMs), `${name} has no proper identity`);
  checkDepths(point.depths, manifest, name, check);
}

function checkTail(tail: PinnedTail, manifest: Manifest, check: Check): void {
  check(typeof tail.name === 'string' && isCount(tail.generation), 'a left-behind tail has no name');
  checkDepths(tail.depths, manifest, tail.name, check);
}

function checkDepths(depths: Depths, manifest: Manifest, name: string, check: Check): void {
  for (const [disk, depth] of Object.entries(depths)) {
    const layers = manifest.disks.find((entry) => entry.name === disk)?.layers.length ?? 0;
    check(isCount(depth) && depth >= 1 && depth <= layers, `${name} needs ${depth} layers of ${disk}, there are ${layers}`);
  }
}

function isCount(value: unknown): boolean {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}
