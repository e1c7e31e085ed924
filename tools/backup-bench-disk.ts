import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { connectQmp } from '#adapters/qmp/qmp-client.ts';

const startMs = 30_000;

/** An image in the hands of QEMU's storage daemon, which marks in a bitmap what is written to it. */
export type BenchDisk = AsyncDisposable & { pid: number; socketPath: string; bitmap: string };

/** Exports the image as `name` over NBD. */
export async function startDisk(folder: string, name: string, image: string): Promise<BenchDisk> {
  const [qmpPath, socketPath, bitmap] = [join(folder, 'qmp'), join(folder, 'nbd'), 'changed'];
  const daemon = spawn(
    'qemu-storage-daemon',
    [
      ['--chardev', `socket,id=monitor,path=${qmpPath},server=on,wait=off`, '--monitor', 'chardev=monitor'],
      ['--blockdev', `driver=file,node-name=file,filename=${image}`, '--blockdev', `driver=raw,node-name=${name},file=file`],
      ['--nbd-server', `addr.type=unix,addr.path=${socketPath},max-connections=0`],
    ].flat(),
    { stdio: ['ignore', 'ignore', 'inherit'] },
  );
  const ended = new Promise<void>((resolve) => void daemon.once('close', () => resolve()));
  const qmp = await connectSoon(qmpPath);
  await qmp.execute('block-dirty-bitmap-add', { node: name, name: bitmap, granularity: 65_536 });
  const what = { id: name, type: 'nbd', 'node-name': name, name, writable: true, bitmaps: [bitmap] };
  await qmp.execute('block-export-add', what);
  return {
    pid: daemon.pid ?? 0,
    socketPath,
    bitmap,
    async [Symbol.asyncDispose]() {
      qmp.close();
      daemon.kill('SIGTERM');
      await ended;
    },
  };
}

async function connectSoon(path: string): ReturnType<typeof connectQmp> {
  const deadline = performance.now() + startMs;
  for (;;) {
    try {
      return await connectQmp(path, { deadlineMs: startMs });
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await wait(50);
    }
  }
}
