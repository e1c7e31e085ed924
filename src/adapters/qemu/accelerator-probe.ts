import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmodSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { HypervisorFacts } from '#ports/hypervisor.ts';
import { probeGuestExitCode, probeGuestImage } from './probe-guest.ts';
import { asUnprivileged, plainEnvironment, type QemuUser } from './unprivileged.ts';

export type ProbeParams = { qemu: string; runDir: string; user: QemuUser; accelerator: 'auto' | 'kvm' | 'tcg' };

/**
 * Finds out by booting a guest which accelerator works; /dev/kvm may be there and yet unable to run a kernel. The answer is kept in
 * the run folder for this boot and this QEMU, for a probe costs up to the deadline where KVM hangs.
 *
 * Raises AppError missing (no QEMU), unsupported (KVM was demanded and does not work), unavailable (not even TCG works).
 */
export async function probeAccelerator(params: ProbeParams): Promise<HypervisorFacts> {
  const qemuVersion = await readQemuVersion(params.qemu);
  const key = { bootId: readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim(), qemuVersion, wanted: params.accelerator };
  const kept = readKept(params.runDir, key);
  if (kept !== null) return kept;
  const facts = { ...(await chooseAccelerator(params)), qemuVersion };
  const path = keptPath(params.runDir);
  writeFileSync(`${path}.new`, JSON.stringify({ ...key, facts }));
  renameSync(`${path}.new`, path);
  return facts;
}

async function chooseAccelerator(params: ProbeParams): Promise<Pick<HypervisorFacts, 'accelerator' | 'because'>> {
  let whyNotKvm: string | null = null;
  if (params.accelerator !== 'tcg') {
    whyNotKvm = await bootProbeGuest(params, 'kvm');
    if (whyNotKvm === null) return { accelerator: 'kvm', because: 'a guest was booted with KVM' };
    if (params.accelerator === 'kvm') {
      throw new AppError('unsupported', `[guests] accelerator = "kvm": KVM cannot run a guest here: ${whyNotKvm}`);
    }
  }
  const whyNotTcg = await bootProbeGuest(params, 'tcg');
  if (whyNotTcg !== null) throw new AppError('unavailable', `probe ${params.qemu}: it cannot run a guest here: ${whyNotTcg}`);
  return {
    accelerator: 'tcg',
    because: whyNotKvm === null ? 'node.toml asks for tcg' : `KVM cannot run a guest here: ${whyNotKvm}`,
  };
}

/** Boots the probe guest; null when it truly ran: its own words came back and it ended QEMU itself. Otherwise why not. */
export async function bootProbeGuest(params: ProbeParams, accelerator: 'kvm' | 'tcg'): Promise<string | null> {
  const folder = mkdtempSync(`${params.runDir}/probe-`);
  // Nothing but this guest, run now, can know this word.
  const word = randomUUID();
  try {
    chmodSync(folder, 0o711);
    const image = `${folder}/guest.bin`;
    writeFileSync(image, probeGuestImage, { mode: 0o644 });
    const { code, stdout, stderr } = await runProbe(params, accelerator, image, word);
    if (code === probeGuestExitCode && stdout.includes(word)) return null;
    const end = code === 'deadline' ? `nothing ran within ${limits.acceleratorProbeMs} ms` : `QEMU ended with ${code}`;
    return `${end}${stderr === '' ? '' : `: ${stderr}`}`;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

type ProbeEnd = { code: number | string; stdout: string; stderr: string };

function runProbe(params: ProbeParams, accelerator: 'kvm' | 'tcg', image: string, word: string): Promise<ProbeEnd> {
  const cpu = accelerator === 'kvm' ? 'host' : 'max';
  const command = [
    [params.qemu, '-machine', 'q35', '-accel', accelerator, '-cpu', cpu, '-m', '64', '-nodefaults', '-no-user-config'],
    ['-display', 'none', '-no-reboot', '-serial', 'stdio', '-device', 'isa-debug-exit,iobase=0xf4,iosize=1'],
    ['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ['-kernel', image, '-append', word],
  ].flat();
  const [file, ...args] = asUnprivileged(params.user, accelerator, command);
  const options = { timeout: limits.acceleratorProbeMs, killSignal: 'SIGKILL', env: plainEnvironment() } as const;
  return new Promise((resolve) => {
    execFile(file!, args, options, (error, stdout, stderr) => {
      const code = error === null ? 0 : error.killed === true ? 'deadline' : (error.code ?? error.signal ?? 'no code');
      resolve({ code, stdout, stderr: stderr.trim().replaceAll(/\s+/g, ' ').slice(0, limits.qemuWordsChars) });
    });
  });
}

function readQemuVersion(qemu: string): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(qemu, ['--version'], { timeout: limits.qemuStartMs, killSignal: 'SIGKILL' }, (error, stdout) => {
      const version = /version (\d+\.\d+(?:\.\d+)?)/.exec(stdout)?.[1];
      if (version !== undefined) return resolve(version);
      const kind = error?.code === 'ENOENT' ? 'missing' : 'unavailable';
      reject(new AppError(kind, `probe ${qemu}: it tells no version; install qemu-system-x86`, { cause: error ?? stdout }));
    });
  });
}

function keptPath(runDir: string): string {
  return `${runDir}/accelerator.json`;
}

function readKept(runDir: string, key: Record<string, string>): HypervisorFacts | null {
  try {
    const kept = JSON.parse(readFileSync(keptPath(runDir), 'utf8')) as Record<string, string> & { facts: HypervisorFacts };
    return Object.entries(key).every(([name, value]) => kept[name] === value) ? kept.facts : null;
  } catch {
    // None kept, or not readable: probe again.
    return null;
  }
}
