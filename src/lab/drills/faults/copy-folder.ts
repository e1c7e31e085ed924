import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { labContext } from '#lab/lab.ts';

/** Where a node keeps its copy of a guest, as a path on this host. */
export function copyFolder(lab: string, node: string, vmid: number): string {
  const folders = labContext(lab).nodes.find((entry) => entry.name === node)?.folders;
  if (folders === undefined) throw new Error(`lab ${lab} has no node ${node}`);
  return join(folders.data, 'dir', String(vmid));
}

/** The files of one disk, lowest layer first, as the copy's manifest lists them. */
export function listLayers(lab: string, node: string, vmid: number, disk: string): { folder: string; layers: string[] } {
  const folder = copyFolder(lab, node, vmid);
  const manifest = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8')) as {
    disks: { name: string; layers: { file: string }[] }[];
  };
  const layers = manifest.disks.find((entry) => entry.name === disk)?.layers.map((layer) => layer.file) ?? [];
  return { folder, layers };
}
