import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, cpSync, mkdtempSync, readFileSync, readlinkSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { timingProfiles } from '#core/ha/timing.ts';
import { startGuardNode } from './guard-node.ts';
import { cgroupSkip, monoMs, waitUntil } from './guard-parts.ts';

const root = resolve(import.meta.dirname, '../..');

/** What the package's scripts and the guard ask of systemd, answered for one unit: the main process is what `systemd-notify` said it is. */
function writeSystemd(folder: string): void {
  const systemctl = `#!/bin/sh
echo "$*" >>'${folder}/calls'
case "$1" in
  show) cat '${folder}/pid' ;;
  kill) kill -USR2 "$(cat '${folder}/pid')" ;;
esac
`;
  const notify = `#!/bin/sh
echo "\${1#MAINPID=}" >'${folder}/pid.new' && mv '${folder}/pid.new' '${folder}/pid'
`;
  writeFileSync(join(folder, 'systemctl'), systemctl, { mode: 0o755 });
  writeFileSync(join(folder, 'systemd-notify'), notify, { mode: 0o755 });
}

test(
  'an upgrade replaces a running guard: the same guests under the same epoch, and the watchdog is petted all along',
  {
    skip: cgroupSkip(),
    timeout: 120_000,
  },
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'upgrade-'));
    try {
      const deb = execFileSync(
        process.execPath,
        ['tools/build-deb.ts', '--out', folder, '--version', '9.9.9', '--uncompressed'],
        {
          cwd: root,
          encoding: 'utf8',
        },
      );
      execFileSync('dpkg-deb', ['-R', deb.trim(), join(folder, 'tree')]);
      const library = join(folder, 'tree/usr/lib/holdfast');
      const installed = [join(library, 'bin/node'), join(library, 'src/programs/guard/main.js')];
      writeSystemd(folder);
      await using parts = await startGuardNode({ profile: 'standard' });
      const script = join(folder, 'postinst');
      const text = readFileSync(join(folder, 'tree/DEBIAN/postinst'), 'utf8');
      writeFileSync(
        script,
        text
          .replaceAll('/usr/lib/holdfast/', `${library}/`)
          .replaceAll('/etc/holdfast/node.toml', parts.configFile)
          .replaceAll('/var/cache/holdfast', join(folder, 'cache')),
      );
      chmodSync(script, 0o755);

      const env = { PATH: `${folder}:${process.env['PATH']}`, NOTIFY_SOCKET: '/run/systemd/notify' };
      const before = parts.startGuard(installed, env);
      writeFileSync(join(folder, 'pid'), `${before.child.pid}\n`);
      const epoch = await parts.serving();
      const guest = await parts.startGuest(epoch);
      // As dpkg does: the files are replaced under the running guard.
      renameSync(library, `${library}.former`);
      cpSync(`${library}.former`, library, { recursive: true });
      const pets = watchPets(() => parts.standIn.lastPetMs());

      const inside = `mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && PATH='${folder}':$PATH exec "$@"`;
      const postinst = [script, 'configure', '1.2.3'];
      const child = spawn('unshare', ['--mount', '/bin/sh', '-c', inside, 'inside', ...postinst], { stdio: 'inherit' });
      assert.equal(await new Promise((done) => child.once('exit', done)), 0);
      assert.equal(await before.exited, 0, JSON.stringify(before.log.slice(-6)));
      const pid = Number(readFileSync(join(folder, 'pid'), 'utf8'));
      assert.notEqual(pid, before.child.pid);
      await waitUntil('the new guard serves', () => parts.state()?.pid === pid && parts.state()?.phase === 'serving');
      assert.equal(readlinkSync(`/proc/${pid}/exe`), installed[0], 'it runs from the new files');

      assert.equal(await parts.serving(), epoch);
      assert.ok(guest.isAlive() && !parts.isFrozen(epoch));
      const gapMs = pets.longestGapMs();
      t.diagnostic(`longest time without a pet: ${Math.round(gapMs)} ms of ${timingProfiles.standard.watchdogMs} ms`);
      assert.ok(gapMs < timingProfiles.standard.watchdogMs, `the host would have been reset: ${gapMs} ms without a pet`);
      const calls = readFileSync(join(folder, 'calls'), 'utf8');
      assert.ok(!/ (stop|restart|disable) |etcd|guests/.test(calls), calls);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
);

/** Looks at the pets until it is asked for the longest time between two. */
function watchPets(lastPetMs: () => number): { longestGapMs(): number } {
  let longestMs = 0;
  const timer = setInterval(() => (longestMs = Math.max(longestMs, monoMs() - lastPetMs())), 10);
  return {
    longestGapMs() {
      clearInterval(timer);
      return longestMs;
    },
  };
}
