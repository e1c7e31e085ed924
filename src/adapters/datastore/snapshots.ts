import { AppError, isAppError } from '#base/error.ts';
import { blobLimits, decodeBlob, encodeBlob } from '#core/backup/blob.ts';
import { decodeText, encodeText, formatHex } from '#core/backup/bytes.ts';
import type { JsonObject } from '#core/backup/canonical-json.ts';
import { formatManifest, parseManifest, withUnprotected, type Manifest } from '#core/backup/manifest.ts';
import {
  type BackupType,
  formatGroup,
  formatSnapshot,
  groupPath,
  type GroupId,
  isSafeName,
  manifestFile,
  nameLimits,
  namespacePath,
  readSnapshotTime,
  snapshotPath,
  type SnapshotId,
} from '#core/backup/names.ts';
import type { GroupInfo, SnapshotInfo, StoredManifest } from '#ports/datastore.ts';
import { createKeyedLock } from './parallel.ts';
import { own, type StoreParts } from './parts.ts';

const types: readonly BackupType[] = ['vm', 'ct', 'host'];
const ownerFile = 'owner';
const notesFile = 'notes';
const protectedFile = '.protected';
const lockedFile = '.locked-until';

/** Namespaces, groups and snapshots: folders and small files. */
export class Snapshots {
  readonly #parts: StoreParts;
  readonly #withManifest = createKeyedLock();

  constructor(parts: StoreParts) {
    this.#parts = parts;
  }

  async listNamespaces(parent: readonly string[]): Promise<string[][]> {
    const entries = (await this.#parts.files.list(join(namespacePath(parent), 'ns'))) ?? [];
    return entries.filter(({ name, isFolder }) => isFolder && isSafeName(name)).map(({ name }) => [...parent, name]);
  }

  async createNamespace(namespace: readonly string[]): Promise<void> {
    if (namespace.length > nameLimits.depth) throw new AppError('invalid', `ns: deeper than ${nameLimits.depth} levels`);
    await this.requireNamespace(namespace.slice(0, -1));
    if (!(await this.#parts.files.makeFolder(namespacePath(namespace)))) {
      throw new AppError('conflict', `namespace ${namespace.join('/')} exists already`);
    }
  }

  /** Folders go one by one and only when they are empty, so that a backup that begins meanwhile keeps what it needs. */
  async removeNamespace(namespace: readonly string[], withGroups: boolean): Promise<void> {
    if (namespace.length === 0) throw new AppError('invalid', 'ns: the root stays');
    await this.requireNamespace(namespace);
    const reasons: string[] = [];
    if (withGroups) {
      for (const inner of await this.listNamespaces(namespace)) await this.removeNamespace(inner, true);
      for (const { group } of await this.listGroups(namespace)) {
        const { kept } = await this.removeGroup(group);
        reasons.push(...kept.map(({ reason }) => reason));
      }
    }
    const path = namespacePath(namespace);
    for (const folder of ['ns', ...types]) await this.#parts.files.removeFolder(`${path}/${folder}`);
    if (!(await this.#parts.files.removeFolder(path))) {
      const why = reasons.length > 0 ? reasons.slice(0, 3).join('; ') : 'there are groups, namespaces or foreign files in it';
      throw new AppError('conflict', `namespace ${namespace.join('/')} is not empty: ${why}`);
    }
  }

  async removeGroup(group: GroupId): Promise<{ removed: number; kept: { snapshot: SnapshotId; reason: string }[] }> {
    const { snapshots } = await this.readGroup(group);
    const path = groupPath(group);
    const lock = await this.#parts.files.lock(path, 'exclusive');
    if (lock === null) throw new AppError('busy', `a backup of ${formatGroup(group)} is running; try again when it has ended`);
    const kept: { snapshot: SnapshotId; reason: string }[] = [];
    try {
      for (const { snapshot } of snapshots.toReversed()) {
        try {
          await this.remove(snapshot);
        } catch (error) {
          if (!isAppError(error)) throw error;
          kept.push({ snapshot, reason: error.message });
        }
      }
      const rest = ((await this.#parts.files.list(path)) ?? []).map(({ name }) => name);
      if (rest.every((name) => name === ownerFile || name === notesFile)) await this.moveToTrash(path);
      return { removed: snapshots.length - kept.length, kept };
    } finally {
      lock.release();
    }
  }

  /** Raises AppError missing unless it is there; the root always is. */
  async requireNamespace(namespace: readonly string[]): Promise<void> {
    if (namespace.length > 0 && (await this.#parts.files.list(namespacePath(namespace))) === null) {
      throw new AppError('missing', `namespace ${namespace.join('/')} does not exist`);
    }
  }

  async listGroups(namespace: readonly string[]): Promise<GroupInfo[]> {
    await this.requireNamespace(namespace);
    const groups: GroupInfo[] = [];
    for (const type of types) {
      const entries = (await this.#parts.files.list(join(namespacePath(namespace), type))) ?? [];
      for (const { name, isFolder } of entries) {
        if (isFolder && isSafeName(name)) groups.push(await this.readGroup({ namespace, type, id: name }));
      }
    }
    return groups;
  }

  /** Snapshots newest first. Raises AppError missing. */
  async readGroup(group: GroupId): Promise<GroupInfo> {
    const path = groupPath(group);
    const entries = await this.#parts.files.list(path);
    if (entries === null) throw new AppError('missing', `group ${formatGroup(group)} does not exist`);
    const owner = await this.readOwner(group);
    const notes = await this.#parts.files.read(`${path}/${notesFile}`);
    const snapshots: SnapshotInfo[] = [];
    for (const { name, isFolder } of entries) {
      const atSeconds = isFolder ? readSnapshotTime(name) : null;
      const info = atSeconds === null ? null : await this.#readInfo({ ...group, atSeconds }, owner);
      if (info !== null) snapshots.push(info);
    }
    snapshots.sort((a, b) => b.snapshot.atSeconds - a.snapshot.atSeconds);
    return { group, owner, notes: notes === null ? null : decodeText(notes, 'notes'), snapshots };
  }

  /** Raises AppError missing. */
  async readInfo(snapshot: SnapshotId): Promise<SnapshotInfo> {
    const info = await this.#readInfo(snapshot, await this.readOwner(snapshot));
    if (info === null) throw new AppError('missing', `snapshot ${formatSnapshot(snapshot)} does not exist`);
    return info;
  }

  async readOwner(group: GroupId): Promise<string | null> {
    const owner = await this.#parts.files.read(`${groupPath(group)}/${ownerFile}`);
    return owner === null ? null : decodeText(owner, 'owner').trim();
  }

  /** Makes the group if it is not there; answers who owns it. */
  async ensureGroup(group: GroupId, owner: string): Promise<string> {
    await this.requireNamespace(group.namespace);
    await this.#parts.files.makeFolder(groupPath(group));
    await this.#parts.files.createNew(`${groupPath(group)}/${ownerFile}`, encodeText(`${owner}\n`));
    return (await this.readOwner(group)) ?? owner;
  }

  async changeOwner(group: GroupId, owner: string): Promise<void> {
    await this.readGroup(group);
    await this.#parts.files.replace(`${groupPath(group)}/${ownerFile}`, encodeText(`${owner}\n`), true);
  }

  async setGroupNotes(group: GroupId, notes: string): Promise<void> {
    await this.readGroup(group);
    await this.#parts.files.replace(`${groupPath(group)}/${notesFile}`, encodeText(notes), true);
  }

  async setProtected(snapshot: SnapshotId, isProtected: boolean): Promise<void> {
    await this.readInfo(snapshot);
    const path = `${snapshotPath(snapshot)}/${protectedFile}`;
    if (isProtected) await this.#parts.files.replace(path, new Uint8Array(), true);
    else await this.#parts.files.remove(path);
  }

  /** Only ever later: who may back up must not be able to shorten it. */
  async lockUntil(snapshot: SnapshotId, untilSeconds: number): Promise<void> {
    const { lockedUntil } = await this.readInfo(snapshot);
    if (!Number.isSafeInteger(untilSeconds))
      throw new AppError('invalid', `until: ${untilSeconds} is not a time in whole seconds`);
    if (lockedUntil !== null && untilSeconds < lockedUntil) {
      throw new AppError(
        'denied',
        `${formatSnapshot(snapshot)} is locked until ${date(lockedUntil)}; that can only be set later`,
      );
    }
    await this.writeLock(snapshot, untilSeconds);
  }

  async writeLock(snapshot: SnapshotId, untilSeconds: number): Promise<void> {
    await this.#parts.files.replace(`${snapshotPath(snapshot)}/${lockedFile}`, encodeText(`${untilSeconds}\n`), true);
  }

  async readManifest(snapshot: SnapshotId): Promise<StoredManifest> {
    const encoded = await this.#parts.files.read(`${snapshotPath(snapshot)}/${manifestFile}`);
    if (encoded === null) throw new AppError('missing', `snapshot ${formatSnapshot(snapshot)} does not exist or is not finished`);
    return { ...this.decodeManifest(encoded, snapshot), encodedBytes: encoded.length };
  }

  /** A file of a snapshot as it is stored; null: not there. */
  readFile(snapshot: SnapshotId, name: string): Promise<Uint8Array | null> {
    return this.#parts.files.read(`${snapshotPath(snapshot)}/${name}`);
  }

  /** `mend`: changes the text before it is read. Raises AppError invalid when it is not the manifest of this snapshot. */
  decodeManifest(encoded: Uint8Array, snapshot: SnapshotId, mend = (text: Uint8Array): Uint8Array => text): Manifest {
    const what = `manifest of ${formatSnapshot(snapshot)}`;
    const text = decodeBlob(encoded, { key: null, maxBytes: blobLimits.wholeBytes, what }, this.#parts.functions);
    const manifest = parseManifest(mend(text));
    const { type, id, atSeconds } = manifest;
    if (type !== snapshot.type || id !== snapshot.id || atSeconds !== snapshot.atSeconds) {
      throw new AppError('invalid', `${what}: it is that of ${formatSnapshot({ type, id, atSeconds, namespace: [] })}`);
    }
    return manifest;
  }

  encodeManifest(manifest: Manifest): Uint8Array {
    return encodeBlob(formatManifest(manifest), { compress: true, crypt: null }, this.#parts.functions);
  }

  async updateUnprotected(snapshot: SnapshotId, change: (unprotected: JsonObject) => JsonObject): Promise<void> {
    const path = `${snapshotPath(snapshot)}/${manifestFile}`;
    await this.#withManifest(path, async () => {
      const manifest = await this.readManifest(snapshot);
      const changed = withUnprotected(manifest, change(manifest.unprotected));
      await this.#parts.files.replace(path, this.encodeManifest(changed), true);
    });
  }

  async addLog(snapshot: SnapshotId, name: string, encoded: Uint8Array): Promise<void> {
    await this.readManifest(snapshot);
    if (!(await this.#parts.files.createNew(`${snapshotPath(snapshot)}/${name}`, encoded))) {
      throw new AppError('conflict', `${formatSnapshot(snapshot)} has a ${name} already; it is not replaced`);
    }
  }

  /** Raises AppError conflict when it is protected, locked until later, or in use. */
  async remove(snapshot: SnapshotId): Promise<void> {
    const what = formatSnapshot(snapshot);
    const path = snapshotPath(snapshot);
    await this.readInfo(snapshot);
    const lock = await this.#parts.files.lock(path, 'exclusive');
    if (lock === null) throw new AppError('busy', `${what} is in use by a backup or a restore; try again when it has ended`);
    try {
      const { isProtected, lockedUntil } = await this.readInfo(snapshot); // under the lock: it may just have been set
      if (isProtected) throw new AppError('conflict', `${what} is protected; take the protection off first`);
      if (lockedUntil !== null && lockedUntil * 1_000 > this.#parts.nowMs()) {
        throw new AppError('denied', `${what} is locked until ${date(lockedUntil)} and cannot be removed before`);
      }
      await this.moveToTrash(path);
    } finally {
      lock.release();
    }
  }

  /** Takes a folder out of sight in one step, then removes it. */
  async moveToTrash(path: string): Promise<void> {
    const grave = `${own.trash}/${formatHex(this.#parts.randomBytes(16))}`;
    await this.#parts.files.rename(path, grave);
    // Gone for good, before anything that relied on it goes: a power cut must not bring it back half.
    await this.#parts.files.syncFolder(path.slice(0, Math.max(0, path.lastIndexOf('/'))));
    await this.#parts.files.removeTree(grave);
  }

  async #readInfo(snapshot: SnapshotId, owner: string | null): Promise<SnapshotInfo | null> {
    const path = snapshotPath(snapshot);
    const entries = await this.#parts.files.list(path);
    if (entries === null) return null;
    const names = entries.map(({ name }) => name);
    const locked = names.includes(lockedFile) ? await this.#parts.files.read(`${path}/${lockedFile}`) : null;
    return {
      snapshot,
      owner,
      isFinished: names.includes(manifestFile),
      isProtected: names.includes(protectedFile),
      lockedUntil: locked === null ? null : readLock(locked),
      files: names.filter((name) => !name.startsWith('.')),
    };
  }
}

/** A lock that cannot be read holds for ever: better than one that a flipped bit opens. */
function readLock(content: Uint8Array): number {
  const seconds = Number.parseInt(new TextDecoder().decode(content), 10);
  return Number.isSafeInteger(seconds) ? seconds : 253_402_300_799;
}

function date(seconds: number): string {
  return new Date(seconds * 1_000).toISOString();
}

function join(path: string, name: string): string {
  return path === '' ? name : `${path}/${name}`;
}
