import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { timingProfiles } from '#core/ha/timing.ts';
import { type Guard, startGuardNode } from './guard-node.ts';
import { cgroupSkip, monoMs, waitUntil } from './guard-parts.ts';

const root = resolve(import.meta.dirname, '../..');

/** What the postinst asks of systemd, answered for one guard as its unit says: a hand-over is followed by a start, at once. */
function writeSystemctl(folder: string): void {
  const script = `#!/bin/sh
echo "$*" >>'${folder}/calls'
case "$1" in
  show) cat '${folder}/pid' ;;
  kill) kill -USR2 "$(cat '${folder}/pid')" ;;
esac
`;
  writeFileSync(join(folder, 'systemctl'), script);
  chmodSync(join(folder, 'systemctl'), 0o755);
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
      writeSystemctl(folder);
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

      const before = parts.startGuard();
      writeFileSync(join(folder, 'pid'), `${before.child.pid}\n`);
      const epoch = await parts.serving();
      const guest = await parts.startGuest(epoch);
      const successor = before.exited.then((code): Guard | null => {
        if (code !== 0) return null;
        const started = parts.startGuard(installed);
        writeFileSync(join(folder, 'pid'), `${started.child.pid}\n`);
        return started;
      });
      const pets = watchPets(() => parts.standIn.lastPetMs());

      const inside = `mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && PATH='${folder}':$PATH exec "$@"`;
      const postinst = [script, 'configure', '1.2.3'];
      const child = spawn('unshare', ['--mount', '/bin/sh', '-c', inside, 'inside', ...postinst], { stdio: 'inherit' });
      assert.equal(await new Promise((done) => child.once('exit', done)), 0);
      const late = new Promise<'late'>((resolve) => setTimeout(resolve, handOverMs, 'late').unref());
      const after = await Promise.race([successor, late]);
      assert.ok(
        after !== null && after !== 'late',
        `the former guard did not hand over: ${JSON.stringify(before.log.slice(-6))}`,
      );
      await waitUntil('the new guard serves', () => parts.state()?.pid === after.child.pid && parts.state()?.phase === 'serving');

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

/** A guard that does not serve at the moment hands over when it does again. */
const handOverMs = 30_000;

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
