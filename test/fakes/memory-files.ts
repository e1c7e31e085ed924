import { AppError } from '#base/error.ts';
import type { FileLock, FolderEntry, StoreFiles } from '../../src/adapters/datastore/store-files.ts';

type File = { content: Uint8Array; isSynced: boolean };
type Folder = { shared: number; isExclusive: boolean };
/** `changed`: when a folder's entries last changed, where they have. */
type Image = { files: Map<string, File>; folders: Map<string, Folder>; changed: Map<string, number> };

/**
 * A disk in memory whose operations happen one at a time in an order that `chance` chooses, and that can be cut off at any of them: by the
 * end of the process, which keeps everything, or of the power, which may keep, lose or empty what was not synced.
 */
export class MemoryDisk {
  readonly #chance: () => number;
  readonly #nowMs: () => number;
  #now: Image = { files: new Map(), folders: new Map([['', { shared: 0, isExclusive: false }]]), changed: new Map() };
  #durable: Image;
  #waiting: (() => void)[] = [];
  #life = 0;
  #processLocks = 0;
  /** How many operations happened. */
  steps = 0;
  calls = new Map<string, number>();

  constructor(chance: () => number, nowMs: () => number = () => 0) {
    this.#chance = chance;
    this.#nowMs = nowMs;
    this.#durable = clone(this.#now);
  }

  /** Lets operations happen until `work` has settled. */
  async run<Result>(work: Promise<Result>): Promise<Result> {
    let isDone = false;
    const finished = work.finally(() => {
      isDone = true;
    });
    finished.catch(() => {});
    while (!isDone) {
      await settle();
      if (!isDone && !this.step()) await settle();
    }
    return finished;
  }

  /** Lets `count` operations happen; false: nothing was waiting. */
  async runSteps(count: number): Promise<void> {
    for (let step = 0; step < count; step += 1) {
      await settle();
      this.step();
    }
  }

  step(): boolean {
    const next = this.#waiting.splice(Math.floor(this.#chance() * this.#waiting.length), 1)[0];
    if (next === undefined) return false;
    this.steps += 1;
    next();
    return true;
  }

  /** Ends the process in the middle of whatever it does. */
  kill(): void {
    this.#life += 1;
    this.#waiting = [];
    this.#processLocks = 0;
    for (const folder of this.#now.folders.values()) {
      folder.shared = 0;
      folder.isExclusive = false;
    }
  }

  /** Ends the process and loses what was not on disk for sure. */
  cutPower(): void {
    this.kill();
    const kept = clone(this.#durable);
    for (const [path, folder] of this.#now.folders) if (this.#chance() < 0.5) kept.folders.set(path, folder);
    for (const [path, file] of this.#now.files) {
      const fate = this.#chance();
      if (fate < 0.4) continue;
      // Without a sync a file may keep its size and its first block, and read as zeros where blocks were never written.
      const isSpoiled = !file.isSynced && fate < 0.8;
      const spoiled = fate < 0.6 ? new Uint8Array() : file.content.slice().fill(0, 12);
      kept.files.set(path, { content: isSpoiled ? spoiled : file.content, isSynced: true });
    }
    for (const image of [kept.files, kept.folders] as Map<string, unknown>[]) {
      for (const path of Array.from(image.keys()).toSorted())
        if (path !== '' && !kept.folders.has(parentOf(path))) image.delete(path);
    }
    // A folder and the time of its last change go to disk together.
    for (const path of kept.folders.keys()) {
      const isAsBefore = entriesOf(kept, path) === entriesOf(this.#durable, path);
      const changed = (isAsBefore ? this.#durable : this.#now).changed.get(path);
      if (changed === undefined) kept.changed.delete(path);
      else kept.changed.set(path, changed);
    }
    this.#now = kept;
    this.#durable = clone(kept);
  }

  /** What is there, without taking a turn. */
  paths(): string[] {
    return [...this.#now.files.keys()];
  }
  folderPaths(): string[] {
    return [...this.#now.folders.keys()];
  }
  peekFile(path: string): Uint8Array | null {
    return this.#now.files.get(path)?.content ?? null;
  }
  writeFile(path: string, content: Uint8Array): void {
    this.#now.files.set(path, { content, isSynced: true });
    this.#durable.files.set(path, { content, isSynced: true });
  }

  /** The files as one process sees them. */
  open(): StoreFiles {
    const life = this.#life;
    const turn = (): Promise<void> => {
      if (life !== this.#life) return new Promise(() => {});
      return new Promise((resolve) => void this.#waiting.push(resolve));
    };
    let counter = 0;
    const act = async <Result>(name: string, effect: () => Result): Promise<Result> => {
      await turn();
      this.calls.set(name, (this.calls.get(name) ?? 0) + 1);
      const result = effect();
      await turn(); // others may act before the answer arrives
      return result;
    };
    const temporary = async (content: Uint8Array, isSynced: boolean): Promise<string> => {
      counter += 1;
      const path = `.holdfast/tmp/${life}-${counter}`;
      await act('write', () => this.#put(path, { content: Uint8Array.from(content), isSynced }));
      return path;
    };
    return {
      read: (path) => act('read', () => this.#now.files.get(path)?.content.slice() ?? null),
      peek: (path, bytes) =>
        act('peek', () => {
          const file = this.#now.files.get(path);
          return file === undefined ? null : { sizeBytes: file.content.length, head: file.content.slice(0, bytes) };
        }),
      changedAt: (path) => act('stat', () => (this.#now.folders.has(path) ? (this.#now.changed.get(path) ?? 0) : null)),
      list: (path) => (this.#now.folders.has(path) ? act('list', () => this.#list(path)) : Promise.resolve(null)),
      replace: async (path, content, sync) => {
        const from = await temporary(content, sync);
        await act('rename', () => {
          if (path.startsWith('.chunks/')) this.#makeFolder(parentOf(path));
          this.#move(from, path);
          if (sync) this.#syncFolder(parentOf(path));
        });
      },
      createNew: async (path, content) => {
        const from = await temporary(content, true);
        return act('link', () => {
          const isFree = !this.#now.files.has(path);
          if (isFree) {
            this.#move(from, path);
            this.#syncFolder(parentOf(path));
          } else this.#remove(from);
          return isFree;
        });
      },
      append: (path, content) =>
        act('append', () => {
          const before = this.#now.files.get(path)?.content ?? new Uint8Array();
          this.#put(path, { content: Uint8Array.from([...before, ...content]), isSynced: false });
        }),
      rename: (from, to) => act('rename', () => this.#move(from, to)),
      remove: (path) => act('unlink', () => this.#remove(path)),
      removeTree: async (path) => {
        for (const file of this.paths()) if (isBelow(file, path)) await act('unlink', () => this.#remove(file));
        await act('rmdir', () => {
          for (const folder of this.folderPaths()) if (isBelow(folder, path)) this.#now.folders.delete(folder);
        });
      },
      removeFolder: (path) =>
        act('rmdir', () => {
          if (!this.#now.folders.has(path) || this.#list(path).length > 0) return false;
          return this.#now.folders.delete(path);
        }),
      makeFolder: (path) => act('mkdir', () => this.#makeFolder(path)),
      makeFolders: (paths) =>
        act('mkdir', () => {
          for (const path of paths) this.#makeFolder(path);
        }),
      touch: (path) => act('touch', () => this.#now.files.has(path)),
      syncFolder: (path) => act('fsync', () => this.#syncFolder(path)),
      syncAll: () =>
        act('syncfs', () => {
          for (const file of this.#now.files.values()) file.isSynced = true;
          this.#durable = clone(this.#now);
        }),
      lock: (path, mode) => act('flock', () => this.#lock(path, mode, life)),
      lockProcess: () =>
        act('fcntl', () => {
          this.#processLocks += 1;
          return { release: () => void (this.#processLocks -= 1) };
        }),
      space: () => act('statfs', () => ({ totalBytes: 2 ** 40, availableBytes: 2 ** 39 })),
    };
  }

  #list(path: string): FolderEntry[] {
    const prefix = path === '' ? '' : `${path}/`;
    const inside = (candidate: string): boolean =>
      candidate !== '' && candidate.startsWith(prefix) && !candidate.slice(prefix.length).includes('/');
    const folders = this.folderPaths().filter(inside);
    const files = this.paths().filter(inside);
    return [
      ...folders.map((name) => ({ name: name.slice(prefix.length), isFolder: true })),
      ...files.map((name) => ({ name: name.slice(prefix.length), isFolder: false })),
    ];
  }

  #put(path: string, file: File): void {
    if (!this.#now.folders.has(parentOf(path))) throw new AppError('unavailable', `no folder for ${path}`);
    if (!this.#now.files.has(path)) this.#touch(path);
    this.#now.files.set(path, file);
  }

  #remove(path: string): boolean {
    this.#touch(path);
    return this.#now.files.delete(path);
  }

  /** The folder that holds it changes. */
  #touch(path: string): void {
    this.#now.changed.set(parentOf(path), this.#nowMs());
  }

  #makeFolder(path: string): boolean {
    if (this.#now.folders.has(path)) return false;
    if (path !== '') this.#makeFolder(parentOf(path));
    this.#now.folders.set(path, { shared: 0, isExclusive: false });
    this.#now.changed.set(path, this.#nowMs());
    if (path !== '') this.#touch(path);
    return true;
  }

  #move(from: string, to: string): void {
    const file = this.#now.files.get(from);
    if (file !== undefined) {
      this.#put(to, file);
      this.#touch(to); // also where it replaces another
      this.#remove(from);
      return;
    }
    if (!this.#now.folders.has(from)) throw new AppError('unavailable', `nothing to rename at ${from}`);
    for (const [path, inner] of this.#now.files) {
      if (!isBelow(path, from)) continue;
      this.#now.files.delete(path);
      this.#now.files.set(`${to}${path.slice(from.length)}`, inner);
    }
    for (const [path, folder] of this.#now.folders) {
      if (!isBelow(path, from)) continue;
      this.#now.folders.delete(path);
      this.#now.folders.set(`${to}${path.slice(from.length)}`, folder);
    }
  }

  #syncFolder(path: string): void {
    if (!this.#now.folders.has(path)) return;
    const changed = this.#now.changed.get(path);
    if (changed !== undefined) this.#durable.changed.set(path, changed);
    for (const { name, isFolder } of this.#list(path)) {
      const inner = path === '' ? name : `${path}/${name}`;
      if (isFolder) this.#durable.folders.set(inner, { shared: 0, isExclusive: false });
      else {
        const file = this.#now.files.get(inner)!;
        this.#durable.files.set(inner, file.isSynced ? file : { content: new Uint8Array(), isSynced: true });
      }
    }
    for (const gone of this.#durable.folders.keys()) {
      if (gone === '' || parentOf(gone) !== path || this.#now.folders.has(gone)) continue;
      for (const { inner, image } of [this.#durable.files, this.#durable.folders].flatMap((image) =>
        [...image.keys()].map((inner) => ({ inner, image })),
      )) {
        if (isBelow(inner, gone)) image.delete(inner);
      }
    }
    for (const gone of this.#durable.files.keys()) {
      if (parentOf(gone) === path && !this.#now.files.has(gone)) this.#durable.files.delete(gone);
    }
  }

  #lock(path: string, mode: 'shared' | 'exclusive', life: number): FileLock | null {
    const folder = this.#now.folders.get(path);
    if (folder === undefined || folder.isExclusive || (mode === 'exclusive' && folder.shared > 0)) return null;
    if (mode === 'exclusive') folder.isExclusive = true;
    else folder.shared += 1;
    return {
      release: () => {
        if (life !== this.#life) return;
        if (mode === 'exclusive') folder.isExclusive = false;
        else folder.shared -= 1;
      },
    };
  }
}

function clone(image: Image): Image {
  return {
    files: new Map([...image.files].map(([path, file]) => [path, { ...file }])),
    folders: new Map([...image.folders.keys()].map((path) => [path, { shared: 0, isExclusive: false }])),
    changed: new Map(image.changed),
  };
}

/** The files of a folder, as text. */
function entriesOf({ files }: Image, folder: string): string {
  return [...files.keys()]
    .filter((path) => parentOf(path) === folder)
    .toSorted()
    .join('\n');
}

function parentOf(path: string): string {
  return path.includes('/') ? path.slice(0, path.lastIndexOf('/')) : '';
}

function isBelow(path: string, folder: string): boolean {
  return path === folder || path.startsWith(`${folder}/`);
}

function settle(): Promise<void> {
  return new Promise((resolve) => void setImmediate(resolve));
}
