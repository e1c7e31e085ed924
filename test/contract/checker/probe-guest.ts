import { spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { chownSync, mkdirSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { haltGuest, readProcessState, reviveGuest } from '#adapters/qemu/guest-halt.ts';
import { connectQmp } from '#adapters/qmp/qmp-client.ts';
import { guestRunPaths } from '#core/guest/guest-paths.ts';
import { ensureProbe, probeAppend } from '#lab/images/probe.ts';
import type { DiskChain, RunningGuest } from '#ports/hypervisor.ts';
import { imageUser } from './dir-rig.ts';
import { until } from './until.ts';

/** What the program in the guest last said of itself. */
export type ProbeReport = {
  counter: number;
  maxWriteMs: number;
  writingMs: number;
  ioErrors: number;
  recoveredCounter: number;
  consistent: boolean | null;
  detail: string;
};

export type ProbeGuest = RunningGuest & {
  /** The newest report; null before the first. */
  report(): ProbeReport | null;
  /** The longest time without progress since the last call, as seen from outside. */
  takeLongestStall(): number;
  /** Returns when the guest has written up to `counter`. */
  reach(counter: number, deadlineMs?: number): Promise<ProbeReport>;
  [Symbol.asyncDispose](): Promise<void>;
};

/**
 * Starts the checking workload (src/lab/guests/probe.c) in QEMU by emulation on the two given disks, CPUs stopped. It writes `blocks` blocks
 * every `intervalMs` and reports by UDP to this process.
 */
export async function startProbeGuest(options: {
  vmid: number;
  generation: number;
  run: string;
  disks: DiskChain[];
  intervalMs: number;
  blocks?: number;
}): Promise<ProbeGuest> {
  const probe = await ensureProbe();
  const folder = join(options.run, 'guests', String(options.vmid));
  mkdirSync(folder, { recursive: true, mode: 0o711 });
  chownSync(folder, imageUser.uid, imageUser.gid);
  const collector = createSocket('udp4');
  let last: ProbeReport | null = null;
  let [progressMs, longestMs] = [performance.now(), 0];
  collector.on('message', (message) => {
    const report = JSON.parse(message.toString()) as ProbeReport;
    const now = performance.now();
    longestMs = Math.max(longestMs, now - progressMs);
    if (last === null || report.counter > last.counter) progressMs = now;
    last = report;
  });
  await new Promise<void>((resolve) => collector.bind(0, '127.0.0.1', () => resolve()));
  const { port } = collector.address();
  const append = `${probeAppend({ address: '10.0.2.15/24', collector: `10.0.2.2:${port}`, intervalMs: options.intervalMs, blocksPerInterval: options.blocks ?? 1 })} holdfast.vmid=${options.vmid} holdfast.generation=${options.generation}`;
  const qmpPath = join(folder, 'qmp.sock');
  rmSync(qmpPath, { force: true });
  const output = openSync(join(options.run, `serial-${options.vmid}.log`), 'a');
  const machine = '-nodefaults -display none -machine q35,accel=tcg -cpu max -S -serial stdio -netdev user,id=net0';
  const args = machine.split(' ').concat(
    ['-m', String(probe.memoryMb), '-kernel', probe.kernel, '-initrd', probe.initrd, '-append', append],
    ['-qmp', `unix:${qmpPath},server=on,wait=off`, '-device', 'virtio-net-pci,netdev=net0,romfile='],
    options.disks.flatMap(({ disk, nodeName, blockdev }) => [
      '-blockdev',
      JSON.stringify(blockdev),
      '-device',
      `virtio-blk-pci,id=${disk},drive=${nodeName},serial=${disk}`,
    ]),
  );
  const child = spawn('qemu-system-x86_64', args, { stdio: ['ignore', output, output], ...imageUser });
  const exited = new Promise<{ reason: string }>((resolve) => {
    child.on('exit', (code, signal) => resolve({ reason: `exit ${code ?? signal}` }));
    child.on('error', (error) => resolve({ reason: error.message }));
  });
  let ended = false;
  void exited.then(() => (ended = true));
  const qmp = await until('QEMU answers', 15_000, async () => {
    if (ended) throw new Error(`QEMU ended: see ${options.run}/serial-${options.vmid}.log`);
    return await connectQmp(qmpPath, { deadlineMs: 5_000 }).catch(() => null);
  });
  const halt = { vmid: options.vmid, qmp, markPath: guestRunPaths(options.run, options.vmid).halt };
  const resume = async () => void (await qmp.execute('cont'));
  const kill = async () => {
    child.kill('SIGKILL');
    await exited;
  };
  return {
    vmid: options.vmid,
    generation: options.generation,
    nodeEpoch: 1,
    pid: child.pid ?? 0,
    qmp,
    exited,
    kill,
    shutdown: kill,
    readState: () => readProcessState(halt),
    halt: ({ deadlineMs }) => haltGuest(halt, deadlineMs),
    revive: () => reviveGuest(halt, resume),
    end: async () => {
      await qmp.execute('quit').catch(() => {});
      await exited;
    },
    resume,
    report: () => last,
    takeLongestStall() {
      const taken = Math.max(longestMs, performance.now() - progressMs);
      longestMs = 0;
      return Math.round(taken);
    },
    reach: (counter, deadlineMs = 60_000) =>
      until(`the guest writes number ${counter}`, deadlineMs, () =>
        last !== null && last.consistent !== null && last.counter >= counter ? last : null,
      ),
    async [Symbol.asyncDispose]() {
      qmp.close();
      await kill();
      collector.close();
    },
  };
}
