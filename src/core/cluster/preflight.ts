import { formatDuration } from '#core/text/duration.ts';
import { formatSize } from '#core/text/size.ts';

/** How a machine was found, before anything on it is touched. `ours`: held by our own programs, as when a command is run again. */
export type MachineFacts = {
  isRoot: boolean;
  /** The parent of the guests' control group, and whether version 2 is mounted at its place. */
  cgroup: { path: string; kind: 'version-2' | 'hybrid' | 'absent' };
  programs: { name: string; debianPackage: string; version: string | null; wantedVersion: string | null }[];
  /** What a probe guest told; null: this machine is to run none (a witness). */
  accelerator: { wanted: 'auto' | 'kvm' | 'tcg'; works: 'kvm' | 'tcg' | null; because: string } | null;
  watchdog: {
    device: string;
    wantedMs: number;
    state: { kind: 'works'; timeoutMs: number; isSoftware: boolean } | { kind: 'ours' } | { kind: 'unusable'; because: string };
  } | null;
  address: { value: string; onThisMachine: boolean; known: string[] };
  ports: { port: number; what: string; holder: 'free' | 'ours' | 'other' }[];
  /** null: nobody could tell. */
  clockIsSynchronized: boolean | null;
  disk: { path: string; freeBytes: number };
  memoryBytes: number;
  /** Something that another life of this machine left behind; empty: nothing. */
  leftovers: string[];
};

/** What a running cluster says to a machine that wants to join. */
export type ClusterFacts = { clockAheadMs: number };

export type Finding = { what: string; next: string };
export type Preflight = { problems: Finding[]; notes: Finding[] };

const gib = 2 ** 30;
/** The store's quota, its snapshots, and logs. */
const wantedFreeBytes = { node: 10 * gib, witness: 4 * gib } as const;
const wantedMemoryBytes = { node: 2 * gib, witness: gib / 2 } as const;
/** Certificates are valid from a day back; people compare times of several nodes. */
const tolerableClockMs = 30_000;

/** Lists everything that stands in the way of this machine's being a node (or a witness), and what is worth knowing. */
export function checkPreflight(facts: MachineFacts, role: 'node' | 'witness', cluster: ClusterFacts | null = null): Preflight {
  const problems: Finding[] = [];
  const notes: Finding[] = [];
  const problem = (what: string, next: string) => void problems.push({ what, next });
  const note = (what: string, next: string) => void notes.push({ what, next });
  if (!facts.isRoot) problem('this command does not run as root', 'run it with sudo');
  for (const left of facts.leftovers) problem(left, 'move it away if nothing in it is needed any more, then try again');
  for (const program of facts.programs) checkProgram(program, problem);
  if (role === 'node') checkNode(facts, problem, note);
  checkNetwork(facts, problem);
  checkRoom(facts, role, problem, note);
  checkClock(facts, cluster, problem, note);
  return { problems, notes };
}

type Say = (what: string, next: string) => void;

function checkProgram({ name, debianPackage, version, wantedVersion }: MachineFacts['programs'][number], problem: Say): void {
  if (version === null) return problem(`${name} is not installed`, `apt install ${debianPackage}`);
  if (wantedVersion !== null && compareVersions(version, wantedVersion) < 0) {
    problem(`${name} is version ${version}; at least ${wantedVersion} is needed`, `upgrade ${debianPackage}`);
  }
}

/** Compares dotted numbers; what is no number counts as 0. */
export function compareVersions(a: string, b: string): number {
  const parse = (text: string) => text.split('.').map((part) => Number.parseInt(part, 10) || 0);
  const [left, right] = [parse(a), parse(b)];
  for (let index = 0; index < Math.max(left.length, right.length); index += 1) {
    const difference = (left[index] ?? 0) - (right[index] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

function checkNode({ cgroup, accelerator, watchdog }: MachineFacts, problem: Say, note: Say): void {
  if (cgroup.kind === 'hybrid') {
    problem(
      'control groups of version 1 are in use (version 2 is mounted elsewhere)',
      'remove systemd.unified_cgroup_hierarchy=0 from the kernel command line and reboot',
    );
  } else if (cgroup.kind === 'absent') {
    problem(
      `no control group file system of version 2 holds ${cgroup.path}`,
      'boot with systemd on a kernel of Debian 12 or later',
    );
  }
  if (accelerator !== null) checkAccelerator(accelerator, problem, note);
  if (watchdog !== null) checkWatchdog(watchdog, problem);
}

function checkAccelerator({ wanted, works, because }: NonNullable<MachineFacts['accelerator']>, problem: Say, note: Say): void {
  if (works === null) problem(`no guest can run here: ${because}`, 'look at the words of QEMU above');
  else if (works === 'tcg' && wanted === 'auto') {
    problem(
      `guests would be emulated, many times slower: ${because}`,
      'enable virtualization (VT-x or AMD-V) in the firmware; or accept emulation with --accelerator tcg',
    );
  } else if (works === 'tcg') note('guests are emulated, many times slower than with KVM', 'as asked for');
}

function checkWatchdog({ device, wantedMs, state }: NonNullable<MachineFacts['watchdog']>, problem: Say): void {
  if (state.kind === 'unusable') {
    problem(
      `the watchdog ${device} cannot be used: ${state.because}`,
      'load the driver of this machine’s watchdog (modprobe iTCO_wdt, sp5100_tco, ipmi_watchdog, i6300esb …) or name another with --watchdog; it must not be held by systemd (RuntimeWatchdogSec) or another daemon',
    );
  } else if (state.kind === 'works' && state.isSoftware) {
    problem(
      `${device} is a software watchdog: it cannot reset a machine whose kernel hangs`,
      'use the hardware watchdog of the chipset or of the management controller',
    );
  } else if (state.kind === 'works' && state.timeoutMs > wantedMs) {
    problem(
      `${device} resets after ${formatDuration(state.timeoutMs)} at the earliest; the timing profile needs ${formatDuration(wantedMs)}`,
      'choose a slower profile with --profile lenient, or another watchdog',
    );
  }
}

function checkNetwork({ address, ports }: MachineFacts, problem: Say): void {
  if (!address.onThisMachine) {
    const known = address.known.length === 0 ? 'it has none' : `it has ${address.known.join(', ')}`;
    problem(
      `${address.value} is no address of this machine (${known})`,
      'name the address that the other nodes reach with --address',
    );
  }
  for (const { port, what, holder } of ports) {
    if (holder === 'other')
      problem(`port ${port} (${what}) is in use by another program`, `find it with: ss -ltnp 'sport = :${port}'`);
  }
}

function checkRoom({ disk, memoryBytes }: MachineFacts, role: 'node' | 'witness', problem: Say, note: Say): void {
  if (disk.freeBytes < wantedFreeBytes[role]) {
    problem(
      `${disk.path} has ${formatSize(disk.freeBytes)} free; ${formatSize(wantedFreeBytes[role])} are needed before the first guest`,
      'make room or mount a larger file system there',
    );
  }
  if (memoryBytes < wantedMemoryBytes[role]) {
    note(
      `this machine has ${formatSize(memoryBytes)} of memory`,
      `${formatSize(wantedMemoryBytes[role])} are wanted before the first guest`,
    );
  }
}

function checkClock({ clockIsSynchronized }: MachineFacts, cluster: ClusterFacts | null, problem: Say, note: Say): void {
  if (clockIsSynchronized === false)
    problem('the clock is not synchronized', 'start systemd-timesyncd or chrony and wait a minute');
  if (clockIsSynchronized === null)
    note('nobody here can tell whether the clock is synchronized', 'run systemd-timesyncd or chrony');
  const apartMs = Math.abs(cluster?.clockAheadMs ?? 0);
  if (apartMs > tolerableClockMs) {
    const side = (cluster?.clockAheadMs ?? 0) > 0 ? 'behind' : 'ahead of';
    problem(`this machine’s clock is ${formatDuration(apartMs)} ${side} the cluster’s`, 'set the clock and keep it synchronized');
  }
}

/** The findings for people, one block each. */
export function formatFindings(findings: Finding[]): string {
  return findings.map(({ what, next }) => `  - ${what}\n      ${next}`).join('\n');
}
