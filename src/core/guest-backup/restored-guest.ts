import type { GuestConfig } from '#core/guest/guest-record.ts';

/** How a restored guest differs from the one that was backed up. `macOf`: a new hardware address for a card; null: it keeps its own. */
export type RestoreChanges = { bridge: string | null; macOf: ((card: number) => string) | null };

export function restoredConfig(config: GuestConfig, { bridge, macOf }: RestoreChanges): GuestConfig {
  const nics = config.nics.map((nic, card) => ({ bridge: bridge ?? nic.bridge, mac: macOf === null ? nic.mac : macOf(card) }));
  return { ...config, nics };
}

/** A hardware address in QEMU's own range from three bytes of chance. */
export function macFromBytes(bytes: Uint8Array): string {
  return ['52', '54', '00', ...[...bytes.subarray(0, 3)].map((byte) => byte.toString(16).padStart(2, '0'))].join(':');
}
