import { copyFileSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type CacheOptions, type Progress, ensureCached } from './cache.ts';
import { runCommand } from './command.ts';
import { type MachineVersions, bootstrapDebian13 } from './debian13.ts';

const compileMs = 2_400_000;
const tools = ['gcc', 'make', 'xz-utils', 'libelf-dev', 'libc6-dev', 'file'];
/** Changes when the recipe does something else than before; its words may change without 15 minutes of compiling. */
const recipeVersion = '1';

/** Runs in the builder. Only the kernel side is built; `zfs-dkms` is unpacked and not installed, so that nothing of dkms runs. */
const compileScript = `set -eu
cd /build
apt-get update -q
apt-get download -q -o APT::Sandbox::User=root "zfs-dkms=$ZFS"
dpkg-deb -x zfs-dkms_*.deb zd
cd zd/usr/src/zfs-*
./configure --disable-dependency-tracking --with-config=kernel \\
  --with-linux="/usr/src/linux-headers-\${ABI%-cloud-amd64}-common" --with-linux-obj="/usr/src/linux-headers-$ABI" >/build/configure.log 2>&1
make -j"$(nproc)" >/build/make.log 2>&1
strip -g module/spl.ko module/zfs.ko
cp module/spl.ko module/zfs.ko /build/
`;

/**
 * The OpenZFS module for exactly these versions, from the cache or compiled in a throw-away root (5 to 15 minutes on two cores). Returns the folder
 * with spl.ko and zfs.ko.
 */
export function ensureZfsModule(versions: MachineVersions, options: CacheOptions = {}): Promise<string> {
  const packages = [`linux-headers-${versions.kernelAbi}=${versions.kernelVersion}`, ...tools];
  const inputs = [recipeVersion, versions.kernelAbi, versions.kernelVersion, versions.zfsVersion, packages.join()];
  const build = (directory: string, progress: Progress) => buildModule(directory, versions, packages, progress);
  return ensureCached({ kind: 'zfs-module', inputs, build }, options);
}

async function buildModule(directory: string, versions: MachineVersions, packages: string[], progress: Progress): Promise<void> {
  const work = join(directory, 'work');
  const root = join(work, 'root');
  mkdirSync(work);
  progress(`zfs module: headers of ${versions.kernelAbi} and a compiler into a folder`);
  const env = { ABI: versions.kernelAbi, ZFS: versions.zfsVersion };
  const script = join(work, 'compile.sh');
  writeFileSync(script, compileScript);
  const hooks = ['mkdir "$1/build"', `cp ${script} "$1/build/compile.sh"`];
  await bootstrapDebian13(root, work, { packages, hooks });
  copyFileSync('/etc/resolv.conf', join(root, 'etc/resolv.conf'));
  progress(`zfs module: compiling OpenZFS ${versions.zfsVersion} (5 to 15 minutes)`);
  await using _teller = tellProgress(join(root, 'build'), progress);
  // The compiler's children see devices through a mount of their own, which ends with them.
  const argv = ['--mount', '--pid', '--fork', '--kill-child', 'nice', '-n', '5', 'sh', '-c', compileOutside, 'compile', root];
  await runCommand('unshare', argv, { deadlineMs: compileMs, env });
  for (const file of ['spl.ko', 'zfs.ko']) copyFileSync(join(root, 'build', file), join(directory, file));
  writeFileSync(join(directory, 'versions.json'), JSON.stringify(versions, null, 2));
  rmSync(work, { recursive: true });
  progress('zfs module: ready');
}

const compileOutside = 'mount --bind /dev "$1/dev" && mount -t proc proc "$1/proc" && exec chroot "$1" sh /build/compile.sh';

const tellEveryMs = 30_000;

/** Says every half minute how far the compiler is. */
function tellProgress(build: string, progress: Progress): AsyncDisposable {
  const startMs = performance.now();
  const timer = setInterval(() => {
    const objects = countObjects(build);
    const minutes = ((performance.now() - startMs) / 60_000).toFixed(1);
    progress(`zfs module: ${minutes} min, ${objects === 0 ? 'asking what this kernel offers' : `${objects} objects compiled`}`);
  }, tellEveryMs);
  return { [Symbol.asyncDispose]: async () => clearInterval(timer) };
}

function countObjects(build: string): number {
  const source = join(build, 'zd/usr/src');
  try {
    const [folder] = readdirSync(source);
    const files = readdirSync(join(source, folder ?? '', 'module'), { recursive: true, encoding: 'utf8' });
    return files.filter((file) => file.endsWith('.o')).length;
  } catch {
    return 0; // not unpacked yet
  }
}
