import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';

const root = resolve(import.meta.dirname, '../..');
const folder = mkdtempSync(join(tmpdir(), 'deb-test-'));
const tree = join(folder, 'tree');
const library = join(tree, 'usr/lib/holdfast');
const control = join(folder, 'control');
let deb = '';

function build(out: string, umask: string): string {
  const command = `umask ${umask}; exec "$0" tools/build-deb.ts --out "$1" --version 1.2.3 --uncompressed`;
  return execFileSync('/bin/sh', ['-c', command, process.execPath, out], { cwd: root, encoding: 'utf8' }).trim();
}

function digest(file: string, kind = 'sha256'): string {
  return createHash(kind).update(readFileSync(file)).digest('hex');
}

before(() => {
  deb = build(join(folder, 'a'), '022');
  execFileSync('dpkg-deb', ['-x', deb, tree]);
  execFileSync('dpkg-deb', ['-e', deb, control]);
});
after(() => rmSync(folder, { recursive: true, force: true }));

test('the same tree makes the same package, whatever umask and time', () => {
  assert.equal(digest(build(join(folder, 'b'), '077')), digest(deb));
});

test('everything belongs to root, nothing is writable by others or set-uid, and only what runs is in it', () => {
  const lines = execFileSync('dpkg-deb', ['-c', deb], { encoding: 'utf8', maxBuffer: 16 << 20 })
    .trim()
    .split('\n');
  const wrong = lines.filter((line) => !/^(d|-)rw[x-]r-[x-]r-[x-] root\/root |^lrwxrwxrwx root\/root /.test(line));
  assert.deepEqual(wrong, []);
  const files = lines.map((line) => line.split(/\s+/)[5] ?? '');
  assert.deepEqual(
    files.filter((file) =>
      /\.test\.ts$|\.d\.ts$|\.map$|node_modules\/(typescript|oxlint|knip|pg|@types|fast-check)\//.test(file),
    ),
    [],
  );
  for (const wanted of [
    './usr/bin/holdfast',
    './usr/lib/holdfast/bin/node',
    './usr/lib/holdfast/src/programs/guard/main.js',
    './usr/lib/holdfast/src/programs/replication/chunk-worker.js',
    './usr/lib/holdfast/src/programs/backup/check-worker.js',
    './usr/lib/holdfast/src/cli/commands/backup-server.js',
    './lib/systemd/system/holdfast-backup.service',
    './usr/share/doc/holdfast/backup-server.md',
    './lib/systemd/system/holdfast-guard.service',
    './usr/share/doc/holdfast/copyright',
  ]) {
    assert.ok(files.includes(wanted), wanted);
  }
  assert.ok(!files.some((file) => file.startsWith('./etc/') && !file.endsWith('/')), 'no settings are shipped');
});

test('its control file and sums are what dpkg expects', () => {
  const text = readFileSync(join(control, 'control'), 'utf8');
  for (const field of [/^Package: holdfast$/m, /^Version: 1\.2\.3$/m, /^Installed-Size: \d+$/m, /^Depends: .*etcd-server/m]) {
    assert.match(text, field);
  }
  assert.ok(!text.includes('@'.concat('VERSION')) && !/@[A-Z]+@/.test(text));
  const sums = readFileSync(join(control, 'md5sums'), 'utf8').trim().split('\n');
  for (const line of sums.filter((_, index) => index % 50 === 0)) {
    const [sum, file] = line.split('  ');
    assert.equal(digest(join(tree, file!), 'md5'), sum, file);
  }
});

test('the programs run from the package alone, native parts included', () => {
  const run = (...argv: string[]) =>
    spawnSync(join(library, 'bin/node'), argv, { encoding: 'utf8', cwd: '/', env: { PATH: '/usr/sbin:/usr/bin' } });
  const help = run(join(library, 'src/cli/main.js'), '--help');
  assert.equal(help.status, 0, help.stderr);
  assert.match(help.stdout, /^Usage: holdfast/);
  for (const program of ['guard', 'agent', 'relay']) {
    const end = run(join(library, 'src/programs', program, 'main.js'), '--config', '/nowhere/node.toml');
    assert.equal(end.status, 3, `${program}: ${end.stderr}`);
    assert.match(end.stderr, /\/nowhere\/node\.toml/);
  }
  const lab = run(join(library, 'src/cli/main.js'), 'lab', 'up');
  assert.equal(lab.status, 10, lab.stderr);
  const native = "import koffi from 'koffi'; console.log(koffi.load('libc.so.6').func('int getpid()')() === process.pid);";
  writeFileSync(join(library, 'native.mjs'), native);
  assert.equal(run(join(library, 'native.mjs')).stdout.trim(), 'true');
});

const analyze = spawnSync('systemd-analyze', ['--version']).error === undefined;

test('systemd finds nothing wrong with the units', { skip: analyze ? false : 'systemd-analyze is not installed' }, () => {
  const units = join(folder, 'units');
  mkdirSync(units);
  const names = readdirSync(join(tree, 'lib/systemd/system'));
  for (const name of names) {
    // The programs lie in the test's folder, not in /usr/lib.
    const text = readFileSync(join(tree, 'lib/systemd/system', name), 'utf8').replaceAll('/usr/lib/holdfast/', `${library}/`);
    writeFileSync(join(units, name), text);
  }
  const end = spawnSync('systemd-analyze', ['verify', '--man=no', ...names.map((name) => join(units, name))], {
    encoding: 'utf8',
  });
  const said = end.stderr.split('\n').filter((line) => line.includes('holdfast'));
  assert.deepEqual([said, end.status], [[], 0], end.stderr);
});

type ScriptRun = { status: number | null; stderr: string; calls: string[] };

/**
 * Runs a maintainer script where systemd seems to run: `systemctl` only writes down what it is asked, and after SIGUSR2 the guard
 * has another process number. Folders of the node are the test's own.
 */
function runScript(
  name: string,
  args: string[],
  options: { populated?: boolean; guardActive?: boolean; staysWithFormer?: boolean } = {},
): ScriptRun {
  const place = mkdtempSync(join(folder, `${name}-`));
  const calls = join(place, 'calls');
  writeFileSync(calls, '');
  mkdirSync(join(place, 'bin'));
  const fake = `#!/bin/sh
echo "$*" >>'${calls}'
case "$1" in
  show) ${options.staysWithFormer === true ? 'false' : `grep -q '^kill.*SIGUSR2' '${calls}'`} && echo 222 || echo 111 ;;
  is-active) ${options.guardActive === false ? 'exit 3' : 'exit 0'} ;;
esac
`;
  writeFileSync(join(place, 'bin/systemctl'), fake);
  chmodSync(join(place, 'bin/systemctl'), 0o755);
  writeFileSync(join(place, 'bin/sleep'), '#!/bin/sh\n', { mode: 0o755 });
  const script = join(place, name);
  writeFileSync(script, readFileSync(join(control, name), 'utf8'), { mode: 0o755 });
  const group = '/sys/fs/cgroup/holdfast.slice/holdfast-guests.service/ha/e3';
  const inside = `set -e
mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/system
mount -t tmpfs tmpfs /sys/fs/cgroup; mkdir -p ${group}
printf 'populated ${options.populated === true ? 1 : 0}\\nfrozen 0\\n' >${group}/cgroup.events
mkdir -p /etc/holdfast /var/lib/holdfast
mount -t tmpfs tmpfs /var/cache; mount -t tmpfs tmpfs /etc; mkdir -p /etc/holdfast; echo x >/etc/holdfast/node.toml
mount -t tmpfs tmpfs /var/lib/holdfast; mkdir -p /var/lib/holdfast/dir; echo disk >/var/lib/holdfast/dir/d
code=0; PATH='${place}/bin':/usr/sbin:/usr/bin:/sbin:/bin "$@" || code=$?
[ -e /etc/holdfast ] && echo settings >>'${place}/left'; cat /var/lib/holdfast/dir/d >>'${place}/left'
exit $code`;
  const argv = ['--mount', '/bin/sh', '-c', inside, 'inside', script, ...args];
  const end = spawnSync('unshare', argv, { encoding: 'utf8' });
  const left = existsSync(join(place, 'left')) ? readFileSync(join(place, 'left'), 'utf8').trim().split('\n') : [];
  return {
    status: end.status,
    stderr: end.stderr,
    calls: [...readFileSync(calls, 'utf8').trim().split('\n').filter(Boolean), ...left.map((line) => `left: ${line}`)],
  };
}

const asRoot = { skip: process.getuid?.() === 0 ? false : 'making a mount namespace needs root' };
const changes = (run: ScriptRun) => run.calls.filter((call) => !/^(show|is-active) /.test(call));

test('a first installation starts nothing', asRoot, () => {
  const run = runScript('postinst', ['configure', '']);
  assert.equal(run.status, 0, run.stderr);
  assert.deepEqual(changes(run), ['daemon-reload', 'left: settings', 'left: disk']);
});

test('an upgrade hands the guard over, restarts relay and agent, and touches nothing else', asRoot, () => {
  assert.deepEqual(changes(runScript('prerm', ['upgrade', '1.2.4'], { populated: true })), ['left: settings', 'left: disk']);
  const run = runScript('postinst', ['configure', '1.2.2'], { populated: true });
  assert.equal(run.status, 0, run.stderr);
  assert.deepEqual(changes(run), [
    'daemon-reload',
    'kill --kill-who=main --signal=SIGUSR2 holdfast-guard.service',
    'try-restart holdfast-relay.service',
    'try-restart holdfast-agent.service',
    'left: settings',
    'left: disk',
  ]);
});

test('where no successor gets ready the former guard goes on, and is said to', asRoot, () => {
  const run = runScript('postinst', ['configure', '1.2.2'], { populated: true, staysWithFormer: true });
  assert.equal(run.status, 0, run.stderr);
  assert.match(run.stderr, /the guard \(process 111\) has not handed over yet and goes on[^]*to try again: systemctl kill/);
  assert.ok(run.calls.includes('try-restart holdfast-agent.service'));
});

test(
  'a removal is refused while guests run; without them the guard is stopped last but one, the guests’ unit never',
  asRoot,
  () => {
    const refused = runScript('prerm', ['remove'], { populated: true });
    assert.equal(refused.status, 1);
    assert.match(refused.stderr, /guests run on this node.*holdfast ha drain/);
    assert.deepEqual(changes(refused), ['left: settings', 'left: disk']);
    const run = runScript('prerm', ['remove']);
    assert.equal(run.status, 0, run.stderr);
    const stops = run.calls.filter((call) => call.startsWith('stop ')).map((call) => call.slice('stop holdfast-'.length));
    assert.deepEqual(stops, ['node-end.service', 'agent.service', 'relay.service', 'guard.service', 'etcd.service']);
  },
);

test('a purge forgets the settings and keeps the disks', asRoot, () => {
  const run = runScript('postrm', ['purge']);
  assert.equal(run.status, 0, run.stderr);
  assert.match(run.stderr, /\/var\/lib\/holdfast is kept/);
  assert.deepEqual(changes(run), ['daemon-reload', 'left: disk']);
});

test('a server that goes down ends its node as the policy says; a stopped unit alone does nothing', () => {
  const place = mkdtempSync(join(folder, 'end-'));
  writeFileSync(join(place, 'node.toml'), '[node]\nname = "north"\ncluster = "c"\n');
  writeFileSync(join(place, 'holdfast'), `#!/bin/sh\necho "$*" >>'${place}/said'\nexit 8\n`);
  const runWith = (jobs: string) => {
    rmSync(join(place, 'said'), { force: true });
    writeFileSync(join(place, 'systemctl'), `#!/bin/sh\nprintf '%s\\n' '${jobs}'\n`);
    for (const file of ['holdfast', 'systemctl']) chmodSync(join(place, file), 0o755);
    const env = {
      PATH: `${place}:/usr/bin:/bin`,
      HOLDFAST_CONFIG: join(place, 'node.toml'),
      HOLDFAST_COMMAND: join(place, 'holdfast'),
    };
    const end = spawnSync(join(library, 'bin/end-node'), [], { env, encoding: 'utf8' });
    assert.equal(end.status, 0);
    return existsSync(join(place, 'said')) ? readFileSync(join(place, 'said'), 'utf8').trim() : '';
  };
  assert.equal(runWith('12 reboot.target start waiting'), 'node end north --reboot --timeout 5m');
  assert.equal(runWith('12 poweroff.target start waiting'), 'node end north --power-off --timeout 5m');
  assert.equal(runWith('7 holdfast-node-end.service stop running'), '');
});
