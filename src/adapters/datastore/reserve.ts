import { AppError, isAppError } from '#base/error.ts';
import { own, type StoreParts } from './parts.ts';

/** Written in pieces of this size. */
const pieceBytes = 1024 * 1024;

/**
 * Space that is kept for removing: a file of random bytes, as a file system that compresses would keep nothing for zeros. New backups
 * leave it alone and are refused when it is all that is left; who removes something may use it.
 */
export class Reserve {
  readonly #parts: StoreParts;
  readonly #bytes: number;

  /** `bytes` 0: nothing is kept. */
  constructor(parts: StoreParts, bytes: number) {
    this.#parts = parts;
    this.#bytes = bytes;
  }

  /** Puts the file in place if there is space for it beside what is free now; otherwise later. */
  async fill(): Promise<void> {
    const { files, randomBytes } = this.#parts;
    const found = await files.peek(own.reserve, 0);
    if ((found?.sizeBytes ?? 0) >= this.#bytes) {
      if (this.#bytes === 0) await files.remove(own.reserve);
      return;
    }
    const { availableBytes } = await files.space();
    if (availableBytes < 2 * this.#bytes) return;
    await files.remove(own.reserve);
    for (let left = this.#bytes; left > 0; left -= pieceBytes)
      await files.append(own.reserve, randomBytes(Math.min(left, pieceBytes)));
  }

  /** Does `job`, which removes things: with the reserve given up for it when there is too little space. */
  async spend<Result>(job: () => Promise<Result>): Promise<Result> {
    if (this.#bytes === 0) return job();
    const { availableBytes } = await this.#parts.files.space();
    if (availableBytes < this.#bytes) await this.#parts.files.remove(own.reserve);
    try {
      return await job();
    } catch (error) {
      if (!isAppError(error, 'unavailable') || !(await this.#parts.files.remove(own.reserve))) throw error;
      return await job();
    } finally {
      await this.fill().catch(() => {}); // still full: the next removal fills it again
    }
  }

  /** Raises AppError unavailable when a new backup would take the last space. */
  async requireSpace(): Promise<void> {
    if (this.#bytes === 0) return;
    const { availableBytes } = await this.#parts.files.space();
    if (availableBytes < this.#bytes) {
      throw new AppError(
        'unavailable',
        `datastore: ${availableBytes} bytes are left, fewer than the ${this.#bytes} kept free; prune snapshots and collect garbage`,
      );
    }
  }
}
