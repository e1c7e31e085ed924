import type { HaResource, HaSettings } from '#core/ha/records.ts';

/**
 * What holds where an operator has said nothing. The one place of these defaults: records leave out what was never set, and
 * whoever reads them goes through `withDefaults` or `resourceWithDefaults`.
 */
export type FullHaSettings = Required<HaSettings>;
export type FullHaResource = Required<HaResource>;

const settingDefaults: FullHaSettings = {
  placement: 'count',
  balanceOnStart: false,
  autoRebalance: null,
  shutdownPolicy: 'conditional',
  quarantineAfter: 5,
  quarantineWindowMs: 3_600_000,
};

const resourceDefaults: Omit<FullHaResource, 'vmid'> = {
  want: 'ignored',
  maxDataAgeMs: null,
  localRetries: 1,
  otherNodeTries: 1,
  failback: true,
  betterCopyWaitMs: 0,
  startOrder: 0,
  startsAfter: [],
};

/** The cluster's settings as they hold; null: nobody has set any. */
export function withDefaults(settings: HaSettings | null): FullHaSettings {
  return { ...settingDefaults, ...settings };
}

/** What is wanted of a guest as it holds; null: nothing was said about it, so it is ignored. */
export function resourceWithDefaults(vmid: number, resource: HaResource | null): FullHaResource {
  return { ...resourceDefaults, ...resource, vmid };
}
