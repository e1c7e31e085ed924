/** Names that the command line offers; a file of its own because drills themselves bring the whole lab along. */
export const faultNames = [
  'agent',
  'store',
  'relay',
  'disk-full',
  'switch',
  'links',
  'guard-stop',
  'guard-kill',
  'damaged-copy',
  'missing-disk',
] as const;
export type FaultName = (typeof faultNames)[number];

/** Whose plug is pulled: the guest's home leads nothing, the manager, the store, or both. */
export const pullRoles = ['plain', 'manager', 'store', 'both'] as const;
export type PullRole = (typeof pullRoles)[number];

/** What an operator may ask of the manager, and what it promises then. */
export const managerScenes = [
  'drain',
  'freeze',
  'failover',
  'migrate',
  'lost-target',
  'admission',
  'stop',
  'restart',
  'keep-apart',
  'disarm',
] as const;
export type ManagerScene = (typeof managerScenes)[number];

/** What happens to the three machines of the full lab, in the order in which it is played. */
export const fullScenes = [
  'plug',
  'upgrade',
  'guard-stopped',
  'kernel-crash',
  'hung',
  'disk',
  'cut-send',
  'cycle',
  'driver',
] as const;
export type FullScene = (typeof fullScenes)[number];

/** What guests' disks in a pool may be. */
export const diskKinds = ['volume', 'file'] as const;
export type DiskKind = (typeof diskKinds)[number];

/** What backups of a database are put through, in this order: the last one takes the database away. */
export const backupScenes = ['twice', 'encrypted', 'trouble', 'tested', 'restore'] as const;
export type BackupScene = (typeof backupScenes)[number];
