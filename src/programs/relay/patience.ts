import { limits } from '#base/limits.ts';

/** How long a silent link is kept, and how long a peer or a local client may take to answer. */
export type RelayPatience = { silenceMs: number; connectMs: number };

/**
 * QEMU's main loop waits for the far end of a link that carries a guest's disks as they change, so a silent one is cut soon. A stream of ZFS has no
 * guest at its end.
 */
export function choosePatience(driver: 'dir' | 'zfs'): RelayPatience {
  return driver === 'zfs'
    ? { silenceMs: limits.streamSilenceMs, connectMs: limits.streamConnectMs }
    : { silenceMs: limits.relaySilenceMs, connectMs: limits.relayConnectMs };
}
