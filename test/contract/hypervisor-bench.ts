import { execFile } from 'node:child_process';
import { chmodSync, chownSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { probeGuestImage } from '#adapters/qemu/probe-guest.ts';
import { createHypervisor, type HypervisorOptions } from '#adapters/qemu/hypervisor.ts';
import { connectQmp } from '#adapters/qmp/qmp-client.ts';
import { guestDataPaths } from '#core/guest/guest-paths.ts';
import type { GuestNetwork } from '#ports/guest-network.ts';
import type { StartGuest } from '#ports/hypervisor.ts';

export const user = { uid: 64055, gid: 64056 };

/** A node's folders and guests' cgroup, real ones, removed with everything in them after the test. */
export type Bench = { dataDir: string; runDir: string; cgroupDir: string };

export function makeBench(t: TestContext): Bench {
  const folder = mkdtempSync(join(tmpdir(), 'hf-qemu-'));
  const cgroupDir = join(findCgroup2(), `hf-test-${folder.slice(-6)}`);
  const bench = { dataDir: `${folder}/data`, runDir: `${folder}/run`, cgroupDir };
  for (const path of [bench.dataDir, `${bench.dataDir}/assets`, bench.runDir, cgroupDir]) mkdirSync(path, { recursive: true });
  chmodSync(folder, 0o711);
  writeFileSync(`${bench.dataDir}/assets/tiny`, probeGuestImage);
  t.after(async () => {
    writeFileSync(`${cgroupDir}/cgroup.kill`, '1');
    await waitFor('the cgroup to be empty', () => readFileSync(`${cgroupDir}/cgroup.events`, 'utf8').includes('populated 0'));
    await removeGroupTree(cgroupDir);
    rmSync(folder, { recursive: true, force: true });
  });
  return bench;
}

/** What the guard does when it takes a permit. */
export function makeEpoch(bench: Bench, epoch: number): string {
  const path = `${bench.cgroupDir}/e${epoch}`;
  mkdirSync(path);
  return path;
}

export const noNetwork: GuestNetwork = {
  createPorts: (vmid, nics) => (nics.length === 0 ? Promise.resolve() : Promise.reject(new Error(`no network for ${vmid} here`))),
  cutPorts: () => Promise.resolve(),
  removePorts: () => Promise.resolve(),
};

export function makeHypervisor(bench: Bench, more: Partial<HypervisorOptions> = {}) {
  return createHypervisor({ ...bench, ...user, accelerator: 'tcg', network: noNetwork, connectQmp, ...more });
}

/** An order for a guest that writes its command line to its serial port and halts. */
export function makeOrder(bench: Bench, change: Partial<StartGuest> = {}): StartGuest {
  return {
    vmid: 100,
    name: 'tiny',
    generation: 7,
    nodeEpoch: 1,
    config: {
      cores: 1,
      memoryMb: 64,
      disks: [{ name: 'disk0', sizeBytes: 1 << 20 }],
      nics: [],
      boot: { kernel: 'tiny', initrd: null, append: 'console=ttyS0' },
    },
    disks: [makeDisk(bench, 'disk0')],
    ...change,
  };
}

/** A raw disk image that QEMU's user may write, `content` at its start. */
export function makeDisk(bench: Bench, disk: string, content = Buffer.alloc(0)) {
  const filename = `${bench.dataDir}/${disk}.raw`;
  const bytes = Buffer.alloc(1 << 20);
  content.copy(bytes);
  writeFileSync(filename, bytes);
  chownSync(filename, user.uid, user.gid);
  return { disk, nodeName: disk, blockdev: { driver: 'raw', 'node-name': disk, file: { driver: 'file', filename } } };
}

export function readSerial(bench: Bench, vmid: number): string {
  return readFileSync(guestDataPaths(bench.dataDir, vmid).serialLog, 'utf8');
}

/** Looks until `isTrue`; fails after a generous deadline. */
export async function waitFor(what: string, isTrue: () => boolean | Promise<boolean>, deadlineMs = 15_000): Promise<void> {
  const untilMs = performance.now() + deadlineMs;
  while (!(await isTrue())) {
    if (performance.now() > untilMs) throw new Error(`waited ${deadlineMs} ms for ${what}`);
    await sleep(20);
  }
}

function findCgroup2(): string {
  const mount = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .find((fields) => fields[2] === 'cgroup2');
  if (mount?.[1] === undefined) throw new Error('these tests need a mounted cgroup2 hierarchy');
  return mount[1];
}

function removeGroupTree(path: string): Promise<void> {
  return new Promise((resolve) => {
    // Groups are folders whose files cannot be removed one by one.
    execFile('find', [path, '-depth', '-type', 'd', '-delete'], () => {
      try {
        rmdirSync(path);
      } catch {
        // Removed by find already.
      }
      resolve();
    });
  });
}
