import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createHash } from 'node:crypto';
import { stripTypeScriptTypes } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { gzipSync } from 'node:zlib';
import { copyProductionPackages } from './production-packages.ts';

/**
 * Builds the Debian package of a node (see packaging/README.md) and prints its path.
 *
 *   build-deb.ts [--out FOLDER] [--node BINARY] [--version VERSION] [--uncompressed]
 *
 * The same tree, Node.js and version give the same bytes: every time in it is that of the last commit, or SOURCE_DATE_EPOCH.
 */
const root = resolve(import.meta.dirname, '..');
const architectures: Record<string, string> = { x64: 'amd64', arm64: 'arm64' };

/** Rooms of src/ that a node needs: not the machine room, but for the names that the command line's help tells. */
const rooms = ['base', 'core', 'ports', 'adapters', 'programs', 'cli', 'sim', 'lab/drills/drill-names.ts'];

const { values: options } = parseArgs({
  options: {
    out: { type: 'string', default: join(root, 'build') },
    node: { type: 'string' },
    version: { type: 'string' },
    uncompressed: { type: 'boolean', default: false },
  },
});
const packageJson = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string; imports: unknown };
const version = options.version ?? packageJson.version;
const architecture = architectures[process.arch];
if (architecture === undefined)
  throw new Error(`no package is made for ${process.arch}; known: ${Object.keys(architectures).join(', ')}`);
if (!/^[0-9][A-Za-z0-9.+~]*$/.test(version)) throw new Error(`version: ${JSON.stringify(version)} is not a Debian version`);
const epoch = Number(process.env['SOURCE_DATE_EPOCH'] ?? readCommitTime());

function readCommitTime(): string {
  try {
    return execFileSync('git', ['log', '-1', '--format=%ct'], { cwd: root, encoding: 'utf8' }).trim();
  } catch {
    return '1767225600'; // a tree without history: any fixed time will do
  }
}

/** Lists the files below `folder`, in an order that does not depend on the file system. */
function listFiles(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
    .toSorted();
}

function place(from: string, to: string, mode = 0o644): void {
  mkdirSync(dirname(to), { recursive: true });
  copyFileSync(from, to);
  chmodSync(to, mode);
}

function write(to: string, content: string | Buffer, mode = 0o644): void {
  mkdirSync(dirname(to), { recursive: true });
  writeFileSync(to, content);
  chmodSync(to, mode);
}

/**
 * A program goes into the package as JavaScript, line for line: taking its types away costs a node as much again as reading it, at every start.
 * Only the types and the ending of file names change.
 */
function placeSource(from: string, to: string): void {
  if (!from.endsWith('.ts')) return place(from, to, from.endsWith('.sh') ? 0o755 : 0o644);
  const program = stripTypeScriptTypes(readFileSync(from, 'utf8'));
  write(to.replace(/\.ts$/, '.js'), program.replaceAll(/\.ts(?=['"`])/g, '.js'));
}

function isShipped(file: string): boolean {
  return !/\.test\.ts$|\.md$|\.proto$|\.d\.ts$|\.yaml$|(^|\/)fake-/.test(file);
}

function layOut(stage: string): void {
  const library = join(stage, 'usr/lib/holdfast');
  const doc = join(stage, 'usr/share/doc/holdfast');
  const node = options.node ?? join(root, 'node_modules/.bin/node');
  place(node, join(library, 'bin/node'), 0o755);
  write(
    join(library, 'package.json'),
    JSON.stringify({ name: 'holdfast', version, type: 'module', imports: packageJson.imports }, null, 2),
  );
  for (const room of rooms) {
    const source = join(root, 'src', room);
    const files = statSync(source).isDirectory() ? listFiles(source).filter(isShipped) : [''];
    for (const file of files) placeSource(join(source, file), join(library, 'src', room, file));
  }
  const licences = copyProductionPackages(root, join(library, 'node_modules'), process.arch);
  place(join(root, 'packaging/bin/holdfast'), join(library, 'bin/holdfast'), 0o755);
  place(join(root, 'packaging/bin/end-node'), join(library, 'bin/end-node'), 0o755);
  mkdirSync(join(stage, 'usr/bin'), { recursive: true });
  symlinkSync('../lib/holdfast/bin/holdfast', join(stage, 'usr/bin/holdfast'));
  for (const unit of listFiles(join(root, 'packaging/systemd'))) {
    place(join(root, 'packaging/systemd', unit), join(stage, 'lib/systemd/system', unit));
  }
  for (const page of ['install.md', 'recovery.md', 'failure-modes.md', 'backup-server.md', 'backup-client.md'])
    place(join(root, 'docs', page), join(doc, page));
  const nodeLicence = readFileSync(join(root, `node_modules/node-linux-${process.arch}/LICENSE`), 'utf8');
  const own = readFileSync(join(root, 'LICENSE'), 'utf8');
  write(join(doc, 'copyright'), [`Holdfast\n\n${own}`, `Node.js\n\n${nodeLicence}`, ...licences].join(`\n${'-'.repeat(78)}\n\n`));
  const date = new Date(epoch * 1000).toUTCString().replace('GMT', '+0000');
  const entry = `holdfast (${version}) stable; urgency=medium\n\n  * See the repository's history.\n\n -- Holdfast developers <holdfast@localhost>  ${date}\n`;
  write(join(doc, 'changelog.gz'), gzipSync(entry, { level: 9 }));
  // Data and settings: made by `holdfast init`, but their folders have their modes from the beginning.
  mkdirSync(join(stage, 'etc/holdfast'), { recursive: true });
  mkdirSync(join(stage, 'var/lib/holdfast'), { recursive: true });
}

function writeControl(stage: string): void {
  const files = listFiles(stage);
  const kib = files.reduce((sum, file) => sum + Math.ceil(lstatSync(join(stage, file)).size / 1024), 0);
  const control = readFileSync(join(root, 'packaging/debian/control.in'), 'utf8')
    .replace('@VERSION@', version)
    .replace('@ARCH@', architecture!)
    .replace('@SIZE@', String(kib));
  const sums = files
    .filter((file) => lstatSync(join(stage, file)).isFile())
    .map(
      (file) =>
        `${createHash('md5')
          .update(readFileSync(join(stage, file)))
          .digest('hex')}  ${file}\n`,
    );
  write(join(stage, 'DEBIAN/control'), control);
  write(join(stage, 'DEBIAN/md5sums'), sums.join(''));
  for (const script of ['postinst', 'prerm', 'postrm']) {
    place(join(root, 'packaging/debian', script), join(stage, 'DEBIAN', script), 0o755);
  }
}

/** One mode for folders, one time for everything, whatever umask and clock the build ran under. */
function level(stage: string): void {
  const entries = readdirSync(stage, { withFileTypes: true, recursive: true });
  for (const entry of entries) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isDirectory()) chmodSync(path, 0o755);
    lutimesSync(path, epoch, epoch);
  }
  chmodSync(join(stage), 0o755);
  lutimesSync(stage, epoch, epoch);
}

const stage = mkdtempSync(join(tmpdir(), 'holdfast-deb-'));
try {
  layOut(stage);
  writeControl(stage);
  level(stage);
  mkdirSync(options.out, { recursive: true });
  const file = join(options.out, `holdfast_${version}_${architecture}.deb`);
  execFileSync(
    'dpkg-deb',
    ['--root-owner-group', ...(options.uncompressed ? ['-Znone'] : ['-Zzstd', '-z12']), '--build', stage, file],
    {
      stdio: ['ignore', 'ignore', 'inherit'],
      env: { ...process.env, SOURCE_DATE_EPOCH: String(epoch) },
    },
  );
  process.stdout.write(`${file}\n`);
} finally {
  rmSync(stage, { recursive: true, force: true });
}
