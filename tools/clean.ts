import { existsSync, readdirSync } from 'node:fs';
import { imageCacheRoot, removeBuild } from '#lab/images/cache.ts';
import { labRoots } from '#lab/lab-paths.ts';
import { labDown } from '#lab/lab.ts';

/** Ends every lab on this machine and removes the images that were built for it. */
async function main(): Promise<void> {
  const roots = Object.values(labRoots).filter((root) => existsSync(root));
  const names = new Set(roots.flatMap((root) => readdirSync(root)));
  for (const name of names) {
    await labDown(name);
    process.stdout.write(`lab ${name} ended and removed\n`);
  }
  if (existsSync(imageCacheRoot)) {
    removeBuild(imageCacheRoot);
    process.stdout.write(`${imageCacheRoot} removed\n`);
  }
}

await main();
