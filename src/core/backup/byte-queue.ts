import { joinBytes } from './bytes.ts';

/** Bytes that came and were not looked at yet. */
export class ByteQueue {
  #parts: Uint8Array[] = [];
  #length = 0;
  #position = 0;

  get length(): number {
    return this.#length;
  }

  /** How many bytes were taken since the start. */
  get position(): number {
    return this.#position;
  }

  push(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.#parts.push(bytes);
    this.#length += bytes.length;
  }

  /** Exactly `count` bytes, or null when there are fewer. */
  take(count: number): Uint8Array | null {
    if (this.#length < count) return null;
    const taken: Uint8Array[] = [];
    let left = count;
    while (left > 0) {
      const part = this.takeUpTo(left);
      taken.push(part);
      left -= part.length;
    }
    return taken.length === 1 ? taken[0]! : joinBytes(taken);
  }

  /** At most `count` bytes, without copying; none when there are none. */
  takeUpTo(count: number): Uint8Array {
    const part = this.#parts[0];
    if (part === undefined || count === 0) return new Uint8Array();
    const taken = part.subarray(0, count);
    if (taken.length === part.length) this.#parts.shift();
    else this.#parts[0] = part.subarray(taken.length);
    this.#length -= taken.length;
    this.#position += taken.length;
    return taken;
  }
}
