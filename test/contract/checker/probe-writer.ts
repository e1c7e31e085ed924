import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { AppError } from '#base/error.ts';
import { encodeCounterRecord, makeProbeBlock, probeSlot, probeSlots } from '#lab/images/probe-disks.ts';
import type { DiskChain, RunningGuest } from '#ports/hypervisor.ts';
import type { Qmp } from '#ports/qmp.ts';
import { until } from './until.ts';

export type ProbeWriter = {
  guest: RunningGuest;
  counter(): number;
  /** Returns when the sequence has been written up to here. */
  reach(counter: number): Promise<void>;
  /** The guest stands still; nothing of it has the disks open any more. */
  end(): Promise<void>;
};

const blockBytes = 4096;
/** Each block is two commits: an emulated machine would do nothing else. */
const intervalMs = 500;
/** An emulated machine writes some blocks a second. */
const patienceMs = 240_000;

/**
 * The checking workload (src/lab/guests/probe.c) written from this process instead of a guest: block n to the first disk, then the number n to the
 * second, each durable before the next. For drivers whose points need nothing of QEMU.
 */
export async function startProbeWriter(
  about: { vmid: number; generation: number; disks: { sizeBytes: number }[] },
  chains: DiskChain[],
  from: number,
): Promise<ProbeWriter> {
  const files: FileHandle[] = [];
  for (const { blockdev } of chains) {
    const { filename } = blockdev['file'] as { filename: string };
    files.push(await open(filename, constants.O_RDWR | constants.O_SYNC));
  }
  const [data, numbers] = files;
  if (data === undefined || numbers === undefined) throw new Error('the workload needs two disks');
  const slots = probeSlots(about.disks[0]?.sizeBytes ?? 0);
  let last = from;
  let failure: unknown = null;
  const stop = new AbortController();
  const exited = Promise.withResolvers<{ reason: string }>();

  async function write(): Promise<void> {
    while (!stop.signal.aborted) {
      const next = last + 1;
      await data?.write(makeProbeBlock(next), 0, blockBytes, probeSlot(next, slots) * blockBytes);
      await numbers?.write(encodeCounterRecord(next, about.generation), 0, blockBytes, (next % 2) * blockBytes);
      last = next;
      await delay(intervalMs);
    }
  }
  const writing = write().catch((error: unknown) => (failure = error));

  const end = async (): Promise<void> => {
    stop.abort();
    await writing;
    for (const file of files.splice(0)) await file.close();
    exited.resolve({ reason: 'the test ended it' });
    if (failure !== null) throw failure;
  };
  const guest = makeStandInGuest(about, { end, exited: exited.promise });
  return {
    guest,
    counter: () => last,
    reach: async (counter) =>
      void (await until(`number ${counter} is written`, patienceMs, () => {
        if (failure !== null) throw failure;
        return last >= counter;
      })),
    end,
  };
}

/** A guest without a QEMU: for drivers that need nothing of it but that it is there. */
export function makeStandInGuest(
  about: { vmid: number; generation: number },
  life: { end: () => Promise<void>; exited: Promise<{ reason: string }> },
): RunningGuest {
  const never = (): Promise<never> => Promise.reject(new AppError('unsupported', 'this is no guest of QEMU'));
  const { end, exited } = life;
  return {
    vmid: about.vmid,
    generation: about.generation,
    nodeEpoch: 1,
    pid: 0,
    qmp: { execute: never } as unknown as Qmp,
    resume: never,
    readState: () => Promise.resolve('running'),
    shutdown: end,
    halt: never,
    revive: never,
    end,
    kill: end,
    exited,
  };
}
