import { spawn } from 'node:child_process';
import { chownSync, mkdirSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { haltGuest, readProcessState, reviveGuest } from '#adapters/qemu/guest-halt.ts';
import { connectQmp } from '#adapters/qmp/qmp-client.ts';
import { guestRunPaths } from '#core/guest/guest-paths.ts';
import type { DiskChain, RunningGuest } from '#ports/hypervisor.ts';
import { imageUser } from './dir-rig.ts';
import { until } from './until.ts';

export type BareGuest = RunningGuest &
  AsyncDisposable & {
    /** What it prints on its serial port. */
    serialLog: string;
  };

/** Starts a kernel in QEMU by emulation on the given disks, CPUs stopped, without anything else of Holdfast. `more`: further arguments. */
export async function startBareGuest(options: {
  vmid: number;
  generation: number;
  run: string;
  disks: DiskChain[];
  kernel: string;
  initrd: string;
  append: string;
  memoryMb: number;
  more: string[];
}): Promise<BareGuest> {
  const { vmid, generation, run, disks } = options;
  const paths = guestRunPaths(run, vmid);
  mkdirSync(paths.folder, { recursive: true, mode: 0o711 });
  chownSync(paths.folder, imageUser.uid, imageUser.gid);
  rmSync(paths.qmp, { force: true });
  const serialLog = join(run, `serial-${vmid}.log`);
  const output = openSync(serialLog, 'a');
  const machine = '-nodefaults -display none -machine q35,accel=tcg -cpu max -S -serial stdio';
  const args = machine.split(' ').concat(
    ['-m', String(options.memoryMb), '-kernel', options.kernel, '-initrd', options.initrd, '-append', options.append],
    ['-qmp', `unix:${paths.qmp},server=on,wait=off`, ...options.more],
    disks.flatMap(({ disk, nodeName, blockdev }) => [
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
    if (ended) throw new Error(`QEMU ended: see ${serialLog}`);
    return await connectQmp(paths.qmp, { deadlineMs: 5_000 }).catch(() => null);
  });
  const halt = { vmid, qmp, markPath: paths.halt };
  const resume = async () => void (await qmp.execute('cont'));
  const kill = async () => {
    child.kill('SIGKILL');
    await exited;
  };
  return {
    vmid,
    generation,
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
    serialLog,
    async [Symbol.asyncDispose]() {
      qmp.close();
      await kill();
    },
  };
}
