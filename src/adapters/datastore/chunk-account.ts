import Type from 'typebox';
import { Value } from 'typebox/value';
import { encodeText } from '#core/backup/bytes.ts';
import { inParallel } from './parallel.ts';
import { own, type StoreParts } from './parts.ts';

const whole = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
const schema = Type.Object({ atMs: whole, logBytes: whole, cursor: whole });

/** Clocks of a file system are coarse: some tell only every other second. Also how far its clock may be from ours. */
const marginMs = 5_000;
/** Folders asked at once for when they changed. */
const askWidth = 32;
/** Folders that a collection lists although nothing is said to have changed: all of them in 64 collections. */
const foldersInTurn = 1_024;

/**
 * `atMs`: every change of a chunk folder before it is in the first `logBytes` of the catalogue's log, and both are on disk. `cursor`: where
 * the rolling look is.
 */
type Checkpoint = { atMs: number; logBytes: number; cursor: number };

/**
 * Since when folders of chunks may have changed without its being known after a crash. A file system changes a folder and the time of its
 * last change in one, so after a crash only those folders are listed that changed since the last checkpoint; all others are as the log
 * says. It is not believed blindly: a clock that goes back or is another than that of the file system ends it until all folders were listed,
 * and every collection lists some folders in turn that should not have changed.
 */
export class ChunkAccount {
  readonly #parts: StoreParts;
  readonly #underWay = new Set<{ sinceMs: number }>();
  #checkpoint: Checkpoint | null = null;
  #latestMs = 0;
  #cursor = 0;

  constructor(parts: StoreParts) {
    this.#parts = parts;
  }

  /** Reads the checkpoint of the process before. */
  async load(): Promise<void> {
    this.#checkpoint = readCheckpoint(await this.#parts.files.read(own.checkpoint));
    this.#cursor = this.#checkpoint?.cursor ?? 0;
    this.#latestMs = this.#checkpoint?.atMs ?? 0;
    await this.#look();
  }

  /** Does a job that changes a chunk folder and notes it in the catalogue. */
  async track<Result>(job: () => Promise<Result>): Promise<Result> {
    const mine = { sinceMs: await this.#look() };
    this.#underWay.add(mine);
    try {
      return await job();
    } finally {
      this.#underWay.delete(mine);
    }
  }

  /** Before this time everything has been noted: what is under way began later. To be asked before the log is written. */
  notedUntilMs(): number {
    const now = this.#parts.nowMs();
    return Math.min(now, ...Array.from(this.#underWay, ({ sinceMs }) => sinceMs));
  }

  /** What of the log was on disk for sure. */
  get syncedBytes(): number {
    return this.#checkpoint?.logBytes ?? 0;
  }

  /** To be called when what was noted until then, in so much of the log, is on disk. */
  async commit(atMs: number, logBytes: number): Promise<void> {
    const { files, nowMs } = this.#parts;
    const before = nowMs();
    const checkpoint = { atMs, logBytes, cursor: this.#cursor };
    try {
      await files.replace(own.checkpoint, encodeText(`${JSON.stringify(checkpoint)}\n`), false);
    } catch {
      return; // a full disk: the last one stays, from which more is to be listed
    }
    const changedMs = await files.changedAt(own.root);
    const isOurClock = changedMs !== null && changedMs >= before - marginMs && changedMs <= nowMs() + marginMs;
    if (isOurClock) this.#checkpoint = checkpoint;
    else await this.distrust();
  }

  /** After this all folders have to be listed. */
  async distrust(): Promise<void> {
    this.#checkpoint = null;
    await this.#parts.files.remove(own.checkpoint);
  }

  /**
   * Those of the folders that may have changed since the checkpoint; null: nothing is known of any. `doubtful`: folders that the log tells of
   * since then: a power cut may have undone what was done there.
   */
  async listChanged(prefixes: readonly string[], doubtful: ReadonlySet<number>, signal?: AbortSignal): Promise<string[] | null> {
    const checkpoint = this.#checkpoint;
    if (checkpoint === null) return null;
    const found: string[] = [];
    await inParallel(prefixes, askWidth, async (prefix) => {
      signal?.throwIfAborted();
      if (doubtful.has(Number.parseInt(prefix, 16))) {
        found.push(prefix);
        return;
      }
      const changedMs = await this.#parts.files.changedAt(`.chunks/${prefix}`);
      if (changedMs === null || changedMs >= checkpoint.atMs - 2 * marginMs) found.push(prefix);
    });
    return found;
  }

  /** The folders whose turn it is to be listed in any case. */
  takeTurn(prefixes: readonly string[]): string[] {
    const sorted = prefixes.toSorted();
    const count = Math.min(this.#parts.foldersInTurn ?? foldersInTurn, sorted.length);
    const first = this.#cursor % Math.max(1, sorted.length);
    this.#cursor = first + count;
    return Array.from({ length: count }, (_, at) => sorted[(first + at) % sorted.length] ?? '');
  }

  /** The clock; one that went back leaves times that say nothing. */
  async #look(): Promise<number> {
    const now = this.#parts.nowMs();
    if (this.#checkpoint !== null && now < this.#latestMs - marginMs) await this.distrust();
    this.#latestMs = Math.max(this.#latestMs, now);
    return now;
  }
}

function readCheckpoint(file: Uint8Array | null): Checkpoint | null {
  try {
    const value = file === null ? null : (JSON.parse(new TextDecoder().decode(file)) as unknown);
    return Value.Check(schema, value) ? value : null;
  } catch {
    return null; // cut off by the crash: all folders are listed
  }
}
