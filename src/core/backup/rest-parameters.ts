import { integer, optional, parsed, text, type Parameter } from '#core/access/parameter.ts';
import {
  type BackupType,
  type GroupId,
  nameLimits,
  parseBackupId,
  parseBackupType,
  parseDatastoreName,
  parseNamespace,
  type SnapshotId,
} from './names.ts';
import { parseAuthId } from './owner.ts';
import { keepRules, parseKeepRules, type KeepRule, type KeepRules } from './prune.ts';

const lastSecond = 253_402_300_799;

/** A namespace; missing is the root. */
export function namespaceParameter(description: string): Parameter<string[]> {
  return { schema: { type: 'string', description, maxLength: 256 }, isOptional: true, read: parseNamespace };
}

export const storeParameter = parsed(nameLimits.componentChars, 'datastore', parseDatastoreName);
export const authIdParameter = parsed(128, 'user@realm or user@realm!token', parseAuthId);
const typeParameter: Parameter<BackupType> = parsed(4, 'vm, ct or host', parseBackupType);
const idParameter = parsed(nameLimits.idChars, 'id of the group', parseBackupId);

/** Parameters that name a group, and all of them for a snapshot. */
export const groupParameters = {
  store: storeParameter,
  ns: namespaceParameter('namespace'),
  'backup-type': typeParameter,
  'backup-id': idParameter,
};
export const snapshotParameters = {
  ...groupParameters,
  'backup-time': integer(1, lastSecond, 'time of the snapshot, seconds since 1970'),
};
/** A part of a datastore: all, the groups of a type or an id, or one snapshot. */
export const scopeParameters = {
  store: storeParameter,
  ns: namespaceParameter('namespace'),
  'backup-type': optional(typeParameter),
  'backup-id': optional(idParameter),
};
export const fileParameters = { ...snapshotParameters, 'file-name': text(nameLimits.fileChars, 'file of the snapshot') };
export const depthParameter = optional(
  integer(0, nameLimits.depth, 'levels of namespaces below to include; all of them if missing'),
);

type Named = { ns: string[]; 'backup-type': BackupType; 'backup-id': string };

/** The group that the parameters name. */
export function groupOf(params: Named): GroupId {
  return { namespace: params.ns, type: params['backup-type'], id: params['backup-id'] };
}
export function snapshotOf(params: Named & { 'backup-time': number }): SnapshotId {
  return { ...groupOf(params), atSeconds: params['backup-time'] };
}

const count = (rule: KeepRule): Parameter<number | null> => optional(integer(0, 100_000, `how many to keep by the rule ${rule}`));
export const keepParameters = {
  'keep-last': count('last'),
  'keep-hourly': count('hourly'),
  'keep-daily': count('daily'),
  'keep-weekly': count('weekly'),
  'keep-monthly': count('monthly'),
  'keep-yearly': count('yearly'),
};

/** The rules that the parameters give. */
export function keepRulesOf(params: { [Rule in KeepRule as `keep-${Rule}`]: number | null }): KeepRules {
  return parseKeepRules(Object.fromEntries(keepRules.map((rule) => [rule, params[`keep-${rule}`]])));
}
