import type { Depths, KeptPoint, Layer, Manifest } from './manifest.ts';

/** Commit layer `index` of a disk into the one below it, then forget it. */
export type MergeStep = { disk: string; index: number; upper: Layer; lower: Layer };

/**
 * The next merge a replica may do, lowest first; null when nothing can be merged. Committing layer `i` downwards destroys the
 * image made of the first `i` layers, so a depth at which a kept point or a left-behind tail ends is never merged across.
 */
export function planMerge(manifest: Manifest): MergeStep | null {
  if (manifest.role !== 'replica') return null; // a primary's chain is open in QEMU
  const wanted: Depths[] = [...manifest.points, ...manifest.leftBehind].map((entry) => entry.depths);
  for (const disk of manifest.disks) {
    for (let index = 1; index < disk.layers.length; index += 1) {
      if (wanted.some((depths) => depths[disk.name] === index)) continue;
      const [lower, upper] = [disk.layers[index - 1], disk.layers[index]];
      if (lower !== undefined && upper !== undefined) return { disk: disk.name, index, upper, lower };
    }
  }
  return null;
}

/** Before the first byte is merged: the points are gone from the manifest and the lower layer's seal no longer holds. */
export function openForMerge(manifest: Manifest, step: MergeStep): Manifest {
  return editLayers(manifest, step.disk, (layers) =>
    layers.map((layer) => (layer.file === step.lower.file ? { ...layer, sealed: null } : layer)),
  );
}

/** After the merge is on disk: the upper layer is gone and everything that rests above it lies one layer lower. */
export function closeMerge(manifest: Manifest, step: MergeStep, sealed: Layer['sealed']): Manifest {
  const merged = editLayers(manifest, step.disk, (layers) =>
    layers
      .filter((layer) => layer.file !== step.upper.file)
      .map((layer) => (layer.file === step.lower.file ? { ...layer, sealed, sizeBytes: mergedSize(step) } : layer)),
  );
  const lower = (depths: Depths): Depths => {
    const depth = depths[step.disk];
    return depth !== undefined && depth > step.index ? { ...depths, [step.disk]: depth - 1 } : depths;
  };
  return {
    ...merged,
    points: merged.points.map((point) => ({ ...point, depths: lower(point.depths) })),
    leftBehind: merged.leftBehind.map((tail) => ({ ...tail, depths: lower(tail.depths) })),
  };
}

/** The manifest without these points; the newest one always stays. */
export function dropPoints(manifest: Manifest, dropped: readonly KeptPoint[]): Manifest {
  const newest = manifest.points.at(-1);
  return { ...manifest, points: manifest.points.filter((point) => point === newest || !dropped.includes(point)) };
}

function mergedSize(step: MergeStep): number {
  return Math.max(step.lower.sizeBytes, step.upper.sizeBytes);
}

function editLayers(manifest: Manifest, disk: string, edit: (layers: Layer[]) => Layer[]): Manifest {
  return {
    ...manifest,
    disks: manifest.disks.map((entry) => (entry.name === disk ? { ...entry, layers: edit(entry.layers) } : entry)),
  };
}
