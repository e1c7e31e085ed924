/** What a QEMU can do, read from its answer to `query-qmp-schema` (QEMU docs/devel/qapi-code-gen, "Client JSON Protocol introspection"). */
export type HypervisorFeatures = {
  /** `blockdev-add` driver copy-before-write: the filter of a replication point. */
  copyBeforeWrite: boolean;
  /** Its limits, without which a full scratch file or a slow one could stall the guest. */
  cbwTimeout: boolean;
  onCbwError: boolean;
  /** `blockdev-add` driver snapshot-access: reading the point through the filter. */
  snapshotAccess: boolean;
  blockdevBackup: boolean;
  /** Gratuitous ARP after a start on another node. */
  announceSelf: boolean;
  /** A guest that powers down can keep its disks open. */
  setAction: boolean;
};

type SchemaEntry = {
  name: string;
  'meta-type': string;
  'arg-type'?: string;
  members?: { name: string }[];
  variants?: { case: string; type: string }[];
};

/** Reads the features from the schema's entries. Types there have made-up names, so each is reached from its command. */
export function readHypervisorFeatures(schema: SchemaEntry[]): HypervisorFeatures {
  const byName = new Map(schema.map((entry) => [entry.name, entry]));
  const hasCommand = (name: string) => byName.get(name)?.['meta-type'] === 'command';
  const blockdevOptions = byName.get(byName.get('blockdev-add')?.['arg-type'] ?? '');
  const driver = (name: string) => {
    const variant = blockdevOptions?.variants?.find((candidate) => candidate.case === name);
    return variant === undefined ? undefined : byName.get(variant.type);
  };
  const filter = driver('copy-before-write');
  const filterHas = (member: string) => filter?.members?.some((candidate) => candidate.name === member) ?? false;
  return {
    copyBeforeWrite: filter !== undefined,
    cbwTimeout: filterHas('cbw-timeout'),
    onCbwError: filterHas('on-cbw-error'),
    snapshotAccess: driver('snapshot-access') !== undefined,
    blockdevBackup: hasCommand('blockdev-backup'),
    announceSelf: hasCommand('announce-self'),
    setAction: hasCommand('set-action'),
  };
}

/** What replication or a start cannot do without, in QEMU's own words; empty when this QEMU will do. */
export function listLacking(features: HypervisorFeatures): string[] {
  const words: Record<keyof HypervisorFeatures, string> = {
    copyBeforeWrite: 'copy-before-write',
    cbwTimeout: 'cbw-timeout',
    onCbwError: 'on-cbw-error',
    snapshotAccess: 'snapshot-access',
    blockdevBackup: 'blockdev-backup',
    announceSelf: 'announce-self',
    setAction: 'set-action',
  };
  return (Object.keys(words) as (keyof HypervisorFeatures)[]).filter((name) => !features[name]).map((name) => words[name]);
}
