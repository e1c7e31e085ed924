/** Times of the full lab. Its machines are emulated: everything in them takes ten to thirty times what a server needs. */
export const fullLimits = {
  /** From power to ssh: 30 s when quiet; 120 s with three booting on two busy cores. */
  bootMs: 600_000,
  /** One ssh login, tried again until then. */
  loginMs: 20_000,
  loginPollMs: 1_000,
  /** An ordinary command in a machine. */
  commandMs: 300_000,
  /** Unpacking our package, with its maintainer scripts. */
  installMs: 600_000,
  /** `holdfast init` or `join`, which boots a guest to try KVM and waits until the programs serve. */
  foundMs: 900_000,
  /** From a guest's order to the guest being heard, with the claim of a silent node before it. */
  guestMs: 300_000,
  /** Between two looks at the record or into a machine: each costs an emulated processor a tenth of a second. */
  lookMs: 1_000,
  /** A machine boots and its programs take a permit. */
  rejoinMs: 600_000,
  /** A whole copy of the tiny guest's disks, or the next point of it. */
  replicatedMs: 420_000,
  /** A few megabytes onto a new disk. */
  resilverMs: 300_000,
  /** QEMU's monitor is there: milliseconds, unless the host is starved. */
  monitorMs: 30_000,
  /** SIGKILL of a QEMU until it is gone. */
  killMs: 10_000,
  /** The driver's contract tests on an emulated processor. */
  driverMs: 1_500_000,
  /** One cycle or one bare stream of 64 MiB between two machines. */
  cycleMs: 400_000,
  /** Size of each data disk; sparse. */
  diskBytes: 2 * 1024 ** 3,
  memoryMb: 2560,
  /** The whole drill, whatever happens in it. */
  drillMs: 7_200_000,
  /** Machines that are kept for looking around end by themselves after this. */
  keptMs: 12 * 3_600_000,
} as const;
