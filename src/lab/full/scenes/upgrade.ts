import { AppError } from '#base/error.ts';
import { fullLimits } from '../full-limits.ts';
import { stickFolder } from '../full-room.ts';
import type { MachineShell } from '../machine-shell.ts';
import { findHome, readWitness, type Stage, tinyGuest } from '../stage.ts';

export type UpgradeResult = {
  node: string;
  from: string;
  to: string;
  tookMs: number;
  isGuestKept: boolean;
  /** Longest silence of the guest while the package was replaced. */
  longestSilenceMs: number;
  broken: string[];
};

type Life = { version: string; boot: string; qemu: string; guard: string; agent: string };

/** The package is replaced on the machine where the guest runs: our programs restart, the guest's process stays, nothing resets. */
export async function playUpgrade({ room, store, collector, say }: Stage): Promise<UpgradeResult> {
  const { node } = await findHome(store);
  const { shell } = room.byName(node);
  const before = await readLife(shell);
  const run = (await readWitness(collector))?.runs.at(-1);
  say(`upgrading the package on ${node}, where the guest runs as process ${before.qemu}`);
  const startMs = performance.now();
  // A stick of before a reboot is not mounted any more.
  const mount = `mountpoint -q ${stickFolder} || mount -o ro /dev/disk/by-id/virtio-stick ${stickFolder}`;
  await shell.must(`${mount}; apt-get install -y --no-install-recommends ${stickFolder}/next.deb`, {
    deadlineMs: fullLimits.installMs,
  });
  const tookMs = Math.round(performance.now() - startMs);
  await shell.must('systemctl is-active holdfast-guard holdfast-relay holdfast-agent', {
    deadlineMs: fullLimits.commandMs,
  });
  const after = await readLife(shell);
  const last = (await readWitness(collector))?.runs.at(-1);
  const broken: string[] = [];
  const must = (holds: boolean, text: string) => void (holds || broken.push(text));
  must(after.version !== before.version, `the version is still ${after.version}`);
  must(after.boot === before.boot, `${node} was reset`);
  must(after.qemu === before.qemu, `the guest's process was ${before.qemu} and is ${after.qemu}`);
  must(after.guard !== before.guard, 'the guard was not replaced');
  must(after.agent !== before.agent, 'the agent was not replaced');
  must(last?.bootRandom === run?.bootRandom, 'the guest booted again');
  const result = {
    node,
    from: before.version,
    to: after.version,
    tookMs,
    isGuestKept: after.qemu === before.qemu && after.boot === before.boot,
    longestSilenceMs: Math.round(last?.longestSilenceMs ?? 0),
    broken,
  };
  say(`${node}: ${result.from} to ${result.to} in ${(tookMs / 1000).toFixed(1)} s, guest's process ${after.qemu}`);
  return result;
}

async function readLife(shell: MachineShell): Promise<Life> {
  const lines = [
    `dpkg-query -W -f '\${Version}\\n' holdfast`,
    'cat /proc/sys/kernel/random/boot_id',
    `cat /sys/fs/cgroup/holdfast.slice/holdfast-guests.service/ha/e*/${tinyGuest.vmid}/cgroup.procs | head -1`,
    'systemctl show -P MainPID holdfast-guard',
    'systemctl show -P MainPID holdfast-agent',
  ];
  const [version = '', boot = '', qemu = '', guard = '', agent = ''] = (await shell.must(lines.join('; '))).trim().split('\n');
  if (agent === '') throw new AppError('conflict', `reading what runs on the machine: ${[version, boot, qemu, guard].join(' ')}`);
  return { version, boot, qemu, guard, agent };
}
