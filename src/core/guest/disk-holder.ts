import type { GuestConfig } from '#core/guest/guest-record.ts';

/** Enough for QEMU's own devices; no guest code ever runs in it. */
const holderMemoryMb = 64;

/**
 * The configuration of a QEMU that only holds a guest's disks open, so that their last state can be sent: what else the guest needs (a kernel,
 * a bridge, memory) may be the very thing that is missing on this node, and must not keep it here.
 */
export function diskHolderConfig(config: GuestConfig): GuestConfig {
  // Without disks there is nothing to hold, and a machine needs something to boot from.
  if (config.disks.length === 0) return config;
  return { cores: 1, memoryMb: Math.min(config.memoryMb, holderMemoryMb), disks: config.disks, nics: [], boot: null };
}
