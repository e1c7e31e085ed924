import { AppError } from '#base/error.ts';
import { flag, integer, text } from '#core/access/parameter.ts';
import {
  authIdParameter,
  groupOf,
  groupParameters,
  namespaceParameter,
  scopeParameters,
  snapshotOf,
  snapshotParameters,
  storeParameter,
} from '#core/backup/rest-parameters.ts';
import { formatGroup } from '#core/backup/names.ts';
import { userOf } from '#core/backup/owner.ts';
import { data, maySee, route, storeOf } from './context.ts';
import { describeFiles, describeGroup, describeSnapshot } from './snapshot-text.ts';

const base = 'admin/datastore/{store}';
const notesChars = 65_536;
const on = '/datastore/{store}/{ns}';
const audit = { kind: 'rights', on, any: ['Datastore.Audit'], ifOwner: ['Datastore.Backup'] } as const;
const audits = { kind: 'rights', on, any: ['Datastore.Audit', 'Datastore.Backup'] } as const;
const modify = { kind: 'rights', on, any: ['Datastore.Modify'], ifOwner: ['Datastore.Backup'] } as const;
const prune = { kind: 'rights', on, any: ['Datastore.Modify'], ifOwner: ['Datastore.Prune'] } as const;

/** Groups and snapshots: lists, removal, notes, protection, locks, owners. */
export const snapshotRoutes = [
  route({
    method: 'GET',
    path: `${base}/groups`,
    what: 'lists groups; with Datastore.Backup alone one sees his own',
    permission: audits,
    parameters: { store: storeParameter, ns: namespaceParameter('namespace') },
    async run({ store, ns }, context) {
      const groups = await storeOf(context, store).listGroups(ns);
      const visible = groups.filter((group) => maySee(context, store, group, ['Datastore.Audit'], ['Datastore.Backup']));
      return data(visible.map(describeGroup), { total: visible.length });
    },
  }),
  route({
    method: 'DELETE',
    path: `${base}/groups`,
    what: 'removes a group with all its snapshots; those that are protected or locked keep it',
    permission: prune,
    parameters: groupParameters,
    async run(params, context) {
      const { kept } = await storeOf(context, params.store).removeGroup(groupOf(params));
      if (kept.length > 0)
        throw new AppError(
          'conflict',
          `${kept.length} snapshots stay: ${kept
            .map(({ reason }) => reason)
            .slice(0, 3)
            .join('; ')}`,
        );
      return data(null);
    },
  }),
  route({
    method: 'GET',
    path: `${base}/snapshots`,
    what: 'lists snapshots, newest first in each group',
    permission: audits,
    parameters: scopeParameters,
    async run(params, context) {
      const store = storeOf(context, params.store);
      const type = params['backup-type'];
      const id = params['backup-id'];
      const found: unknown[] = [];
      for (const group of await store.listGroups(params.ns)) {
        if ((type !== null && group.group.type !== type) || (id !== null && group.group.id !== id)) continue;
        if (!maySee(context, params.store, group, ['Datastore.Audit'], ['Datastore.Backup'])) continue;
        for (const info of group.snapshots) found.push(await describeSnapshot(store, info));
      }
      return data(found, { total: found.length });
    },
  }),
  route({
    method: 'DELETE',
    path: `${base}/snapshots`,
    what: 'removes a snapshot that is neither protected, locked nor in use',
    permission: prune,
    parameters: snapshotParameters,
    async run(params, context) {
      await storeOf(context, params.store).removeSnapshot(snapshotOf(params));
      return data(null);
    },
  }),
  route({
    method: 'GET',
    path: `${base}/files`,
    what: 'lists the files of a snapshot',
    permission: { kind: 'rights', on, any: ['Datastore.Audit', 'Datastore.Read'], ifOwner: ['Datastore.Backup'] },
    parameters: snapshotParameters,
    async run(params, context) {
      const [store, snapshot] = [storeOf(context, params.store), snapshotOf(params)];
      return data(describeFiles(await store.readManifest(snapshot), await store.readSnapshot(snapshot)));
    },
  }),
  route({
    method: 'GET',
    path: `${base}/notes`,
    what: 'the notes of a snapshot',
    permission: audit,
    parameters: snapshotParameters,
    async run(params, context) {
      const { unprotected } = await storeOf(context, params.store).readManifest(snapshotOf(params));
      return data(unprotected['notes'] ?? '');
    },
  }),
  route({
    method: 'PUT',
    path: `${base}/notes`,
    what: 'sets the notes of a snapshot',
    permission: modify,
    parameters: { ...snapshotParameters, notes: text(notesChars, 'notes; the first line is shown in lists') },
    async run(params, context) {
      const { notes } = params;
      const store = storeOf(context, params.store);
      await store.updateUnprotected(snapshotOf(params), (unprotected) => ({ ...unprotected, notes }));
      return data(null);
    },
  }),
  route({
    method: 'GET',
    path: `${base}/group-notes`,
    what: 'the notes of a group',
    permission: audit,
    parameters: groupParameters,
    run: async (params, context) => data((await storeOf(context, params.store).readGroup(groupOf(params))).notes ?? ''),
  }),
  route({
    method: 'PUT',
    path: `${base}/group-notes`,
    what: 'sets the notes of a group',
    permission: modify,
    parameters: { ...groupParameters, notes: text(notesChars, 'notes; the first line is shown in lists') },
    async run(params, context) {
      await storeOf(context, params.store).setGroupNotes(groupOf(params), params.notes);
      return data(null);
    },
  }),
  route({
    method: 'GET',
    path: `${base}/protected`,
    what: 'whether a snapshot is protected',
    permission: audit,
    parameters: snapshotParameters,
    run: async (params, context) => data((await storeOf(context, params.store).readSnapshot(snapshotOf(params))).isProtected),
  }),
  route({
    method: 'PUT',
    path: `${base}/protected`,
    what: 'protects a snapshot from removal, or no longer',
    permission: modify,
    parameters: { ...snapshotParameters, protected: flag('whether it is') },
    async run(params, context) {
      await storeOf(context, params.store).setProtected(snapshotOf(params), params.protected);
      return data(null);
    },
  }),
  route({
    method: 'GET',
    path: `${base}/locked-until`,
    what: 'until when nobody can remove a snapshot, seconds since 1970; null: no lock',
    permission: audit,
    parameters: snapshotParameters,
    run: async (params, context) => data((await storeOf(context, params.store).readSnapshot(snapshotOf(params))).lockedUntil),
  }),
  route({
    method: 'PUT',
    path: `${base}/locked-until`,
    what: 'locks a snapshot: until then nobody removes it, and nobody can shorten the lock',
    permission: { kind: 'rights', on, any: ['Datastore.Modify'] },
    parameters: { ...snapshotParameters, until: integer(1, 253_402_300_799, 'seconds since 1970') },
    async run(params, context) {
      await storeOf(context, params.store).lockUntil(snapshotOf(params), params.until);
      return data(null);
    },
  }),
  route({
    method: 'POST',
    path: `${base}/change-owner`,
    what: 'gives a group to another owner; without Datastore.Modify between a user and his own tokens',
    permission: modify,
    parameters: { ...groupParameters, 'new-owner': authIdParameter },
    async run(params, context) {
      const store = storeOf(context, params.store);
      const group = groupOf(params);
      const info = await store.readGroup(group);
      const owner = params['new-owner'];
      // Only between a user and his own tokens, and only by the user himself.
      const isOwnAffair = [info.owner, owner].every((id) => id !== null && userOf(id) === context.caller);
      if (!isOwnAffair && !maySee(context, params.store, info, ['Datastore.Modify'], []))
        throw new AppError(
          'denied',
          `group ${formatGroup(group)} belongs to ${info.owner ?? 'nobody'}; it cannot be given to ${owner}`,
        );
      await store.changeOwner(group, owner);
      return data(null);
    },
  }),
];
