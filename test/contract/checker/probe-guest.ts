import { createSocket } from 'node:dgram';
import { ensureProbe, probeAppend } from '#lab/images/probe.ts';
import type { DiskChain, RunningGuest } from '#ports/hypervisor.ts';
import { startBareGuest } from './bare-guest.ts';
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
  const { vmid, generation, run, disks, intervalMs, blocks = 1 } = options;
  const words = probeAppend({ address: '10.0.2.15/24', collector: `10.0.2.2:${port}`, intervalMs, blocksPerInterval: blocks });
  const guest = await startBareGuest({
    vmid,
    generation,
    run,
    disks,
    kernel: probe.kernel,
    initrd: probe.initrd,
    memoryMb: probe.memoryMb,
    append: `${words} holdfast.vmid=${vmid} holdfast.generation=${generation}`,
    more: ['-netdev', 'user,id=net0', '-device', 'virtio-net-pci,netdev=net0,romfile='],
  });
  return {
    ...guest,
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
      await guest[Symbol.asyncDispose]();
      collector.close();
    },
  };
}
