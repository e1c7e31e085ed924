import { chmodSync, copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';

type Locked = {
  dev?: boolean;
  version: string;
  license?: string;
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
};

/** Used by the machine room alone. */
const labOnly = ['pg'];

/** What runs; sources, types, maps and documentation stay at home. */
const runs = /\.(js|cjs|mjs|json|node|wasm)$/;
const licence = /^licen[cs]e/i;

/**
 * Copies the packages that a node's programs need from node_modules to `to`, with what runs of them and nothing else. Returns their
 * licences as texts. They are followed from package.json through package-lock.json; one that is not installed is an error, unless it is
 * made for another platform.
 */
export function copyProductionPackages(root: string, to: string, arch: string): string[] {
  const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as { packages: Record<string, Locked> };
  const wanted = new Set<string>();
  const follow = (from: string, name: string, isOptional: boolean): void => {
    const key = findPackage(lock.packages, from, name);
    if (key === null || !existsSync(join(root, key))) {
      if (isOptional) return;
      throw new Error(`${name}, needed by ${from === '' ? 'package.json' : from}, is not installed; run make setup`);
    }
    if (wanted.has(key) || (isOptional && !key.endsWith(`-linux-${arch}`))) return;
    wanted.add(key);
    const { dependencies, optionalDependencies } = lock.packages[key]!;
    for (const child of Object.keys(dependencies ?? {})) follow(key, child, false);
    for (const child of Object.keys(optionalDependencies ?? {})) follow(key, child, true);
  };
  for (const name of Object.keys(lock.packages['']?.dependencies ?? {})) if (!labOnly.includes(name)) follow('', name, false);
  return [...wanted].toSorted().map((key) => copyPackage(root, key, to, lock.packages[key]!));
}

/** As Node.js looks for it: in the package's own node_modules first, then outwards. */
function findPackage(packages: Record<string, Locked>, from: string, name: string): string | null {
  for (let folder = from; ; folder = folder.slice(0, Math.max(0, folder.lastIndexOf('/node_modules/')))) {
    const key = `${folder === '' ? '' : `${folder}/`}node_modules/${name}`;
    if (packages[key] !== undefined) return key;
    if (folder === '') return null;
  }
}

function copyPackage(root: string, key: string, to: string, locked: Locked): string {
  const source = join(root, key);
  const texts: string[] = [];
  const entries = readdirSync(source, { withFileTypes: true, recursive: true }).toSorted((a, b) => (a.name < b.name ? -1 : 1));
  for (const entry of entries) {
    const path = join(entry.parentPath, entry.name);
    const name = relative(source, path);
    // Packages inside packages are listed by themselves.
    if (!entry.isFile() || name.startsWith('node_modules/')) continue;
    if (licence.test(entry.name) && dirname(name) === '.') texts.push(readFileSync(path, 'utf8'));
    if (!runs.test(entry.name) || /^(test|tests|docs|examples|benchmarks)\//.test(name)) continue;
    const target = join(to, key.slice('node_modules/'.length), name);
    mkdirSync(dirname(target), { recursive: true });
    copyFileSync(path, target);
    chmodSync(target, 0o644);
  }
  return `${key.slice('node_modules/'.length)} ${locked.version}\n\n${texts.join('\n') || `licence: ${locked.license ?? 'not stated'}`}`;
}
