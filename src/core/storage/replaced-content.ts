import { currentDepths, type Layer, type Manifest } from './manifest.ts';

/** What is known of content that was replaced: its name, what the new content differs by, when that was the guest's, and until when the old was. */
export type ReplacedContent = { name: string; sizeBytes: number; fromAtMs: number; untilAtMs: number };

/**
 * A primary copy whose disks were written anew, into `added` above what lay there: that is kept as a tail. Nobody may take it for what was
 * handed over or promoted any more. A disk that is new here rests on nothing.
 */
export function replaceContent(manifest: Manifest, old: ReplacedContent, added: { disk: string; layer: Layer }[]): Manifest {
  const { handedOver: _handed, opened: _opened, ...rest } = manifest;
  const above = (disk: string): Layer[] => added.filter((entry) => entry.disk === disk).map((entry) => entry.layer);
  const kept = manifest.disks.map(({ name, layers }) => ({ name, layers: [...layers, ...above(name)] }));
  const known = new Set(manifest.disks.map(({ name }) => name));
  const fresh = added.filter(({ disk }) => !known.has(disk)).map(({ disk, layer }) => ({ name: disk, layers: [layer] }));
  const tail = { ...old, generation: manifest.generation, depths: currentDepths(manifest) };
  return { ...rest, disks: [...kept, ...fresh], leftBehind: [...manifest.leftBehind, tail] };
}
