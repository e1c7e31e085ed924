import { createChunker } from './chunker.ts';

/** Bytes that may lie unscanned: enough that a scan is worth its call. */
const scanBytes = 256 * 1024;

/** Room for the largest chunk of an average. */
export function chunkRoomBytes(averageBytes: number): number {
  return averageBytes * 4;
}

/** Where chunks go, and where the next room of `chunkRoomBytes` comes from. */
export type ChunkOutlet = { takeRoom(): Uint8Array; emit(room: Uint8Array, bytes: number): void };

/** A stream on its way into chunks that are cut where the content says so. Bytes are written once, where the chunk is sent from. */
export class ChunkBuffer {
  readonly #chunker;
  readonly #outlet: ChunkOutlet;
  #room: Uint8Array;
  #used = 0;
  #scanned = 0;

  constructor(averageBytes: number, outlet: ChunkOutlet) {
    this.#chunker = createChunker(averageBytes);
    this.#outlet = outlet;
    this.#room = outlet.takeRoom();
  }

  /** Appends a copy. */
  write(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length;) {
      const part = bytes.subarray(at, at + this.#room.length - this.#used);
      this.#room.set(part, this.#used);
      this.#added(part.length);
      at += part.length;
    }
  }

  /** Lets `read` put bytes where they belong; it answers how many it put. */
  fill(mostBytes: number, read: (room: Uint8Array) => number): number {
    const bytes = read(this.#room.subarray(this.#used, this.#used + mostBytes));
    this.#added(bytes);
    return bytes;
  }

  /** Gives the last chunk away. */
  end(): void {
    this.#scan();
    if (this.#used > 0) this.#outlet.emit(this.#room, this.#used);
    this.#used = 0;
    this.#scanned = 0;
  }

  #added(bytes: number): void {
    this.#used += bytes;
    if (this.#used - this.#scanned >= scanBytes || this.#used === this.#room.length) this.#scan();
  }

  #scan(): void {
    while (this.#scanned < this.#used) {
      const cut = this.#chunker.scan(this.#room.subarray(this.#scanned, this.#used));
      if (cut === 0) {
        this.#scanned = this.#used;
        return;
      }
      this.#cut(this.#scanned + cut);
    }
  }

  #cut(at: number): void {
    const full = this.#room;
    const rest = full.subarray(at, this.#used);
    this.#room = this.#outlet.takeRoom();
    this.#room.set(rest);
    this.#used = rest.length;
    this.#scanned = 0;
    this.#outlet.emit(full, at);
  }
}
