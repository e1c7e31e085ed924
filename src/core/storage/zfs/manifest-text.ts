import { AppError } from '#base/error.ts';
import { parseDiskName } from '#base/ids.ts';
import type { ZfsManifest } from './manifest.ts';
import { isTailName } from './names.ts';

/** A property takes 8191 bytes; JSON of ours is ASCII but for nothing. */
const pieceCharacters = 6_000;
const countProperty = 'holdfast:copy';
/** 200 kB of manifest: thousands of points. */
const maxPieces = 32;

/** The manifest as properties that are to be set together. Characters beyond ASCII are escaped: a property's limit is in bytes. */
export function formatZfsManifest(manifest: ZfsManifest): Record<string, string> {
  const text = JSON.stringify(manifest).replaceAll(
    /[\u007f-\uffff]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  const pieces: Record<string, string> = {};
  let count = 0;
  for (let from = 0; from < text.length; from += pieceCharacters) {
    pieces[`${countProperty}.${count}`] = text.slice(from, from + pieceCharacters);
    count += 1;
  }
  if (count > maxPieces)
    throw new AppError('conflict', `guest ${manifest.vmid}: its manifest has ${text.length} characters; keep fewer points`);
  return { [countProperty]: `${count} ${text.length}`, ...pieces };
}

/** Reads the manifest back from a dataset's own properties; null: it has none. Raises AppError invalid, naming `dataset` and what is wrong. */
export function parseZfsManifest(properties: ReadonlyMap<string, string>, dataset: string): ZfsManifest | null {
  const head = properties.get(countProperty);
  if (head === undefined) return null;
  const check = (condition: boolean, what: string): void => {
    if (!condition) throw new AppError('invalid', `${dataset}: ${what}; the copy cannot be used`);
  };
  const [count, length] = head.split(' ').map(Number);
  check(isCount(count) && isCount(length) && (count ?? 0) <= maxPieces, `${countProperty} is ${JSON.stringify(head)}`);
  let text = '';
  for (let index = 0; index < (count ?? 0); index += 1) text += properties.get(`${countProperty}.${index}`) ?? '';
  check(text.length === length, `its manifest has ${text.length} characters, not ${length}`);
  let manifest: ZfsManifest;
  try {
    manifest = JSON.parse(text) as ZfsManifest;
  } catch (cause) {
    throw new AppError('invalid', `${dataset}: its manifest is not JSON; the copy cannot be used`, { cause });
  }
  checkShape(manifest, check);
  return manifest;
}

type Check = (condition: boolean, what: string) => void;

function checkShape(manifest: ZfsManifest, check: Check): void {
  check(manifest.version === 1, `version ${JSON.stringify(manifest.version)} is unknown`);
  check(isCount(manifest.vmid) && isCount(manifest.generation) && isCount(manifest.reservedSeq), 'a number is missing');
  check(manifest.role === 'primary' || manifest.role === 'replica', 'role is neither primary nor replica');
  const lists = [manifest.disks, manifest.points, manifest.leftBehind, manifest.anchors];
  check(lists.every(Array.isArray), 'a list is missing');
  for (const disk of manifest.disks) {
    parseDiskName(disk.name, 'disks.name');
    check(isCount(disk.sizeBytes), `disk ${disk.name} has no size`);
  }
  for (const point of manifest.points) {
    const isWhole = isCount(point.generation) && isCount(point.seq) && isCount(point.pointAtMs);
    check(isWhole, `point ${point.generation}/${point.seq} has no proper identity`);
    check(
      Object.values(point.guids).every((guid) => /^\d+$/.test(guid)),
      `point ${point.generation}/${point.seq} has no GUID`,
    );
  }
  for (const tail of manifest.leftBehind) check(isTailName(tail.name), 'a left-behind tail has no name');
  check(manifest.swapping === undefined || isTailName(manifest.swapping), 'what is being replaced has no name');
}

function isCount(value: unknown): boolean {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}
