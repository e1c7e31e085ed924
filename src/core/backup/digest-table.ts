/**
 * Millions of 32-byte digests, each with a number, in little memory: raw bytes in one block and an open-addressed table over it. A
 * digest keeps its number until it is removed; numbers of removed digests are used again.
 */
export class DigestTable {
  readonly #seed: number;
  #digests: Uint8Array;
  /** Number + 1 at its place; 0: free. */
  #slots: Int32Array;
  #free: number[] = [];
  #top = 0;
  #size = 0;
  #isUsed: Uint8Array;

  /** `seed`: any secret number. Clients choose the digests of encrypted chunks, so they must not be able to choose collisions. */
  constructor(seed: number) {
    this.#seed = seed | 1;
    this.#digests = new Uint8Array(64 * 32);
    this.#slots = new Int32Array(256);
    this.#isUsed = new Uint8Array(64);
  }

  get size(): number {
    return this.#size;
  }

  /** Numbers are below this: the length that side tables need. */
  get top(): number {
    return this.#top;
  }

  /** The digest's number; -1 when it is not there. */
  find(digest: Uint8Array): number {
    return (this.#slots[this.#place(digest)] ?? 0) - 1;
  }

  has(digest: Uint8Array): boolean {
    return this.find(digest) >= 0;
  }

  /** The digest's number, a new one if it was not there. */
  add(digest: Uint8Array): number {
    if ((this.#size + 1) * 2 > this.#slots.length) this.#grow();
    const place = this.#place(digest);
    const known = (this.#slots[place] ?? 0) - 1;
    if (known >= 0) return known;
    const number = this.#free.pop() ?? this.#top++;
    if (number >= this.#isUsed.length) this.#growRecords();
    this.#digests.set(digest, number * 32);
    this.#isUsed[number] = 1;
    this.#slots[place] = number + 1;
    this.#size += 1;
    return number;
  }

  /** The number that the digest had; -1 when it was not there. */
  remove(digest: Uint8Array): number {
    const place = this.#place(digest);
    const number = (this.#slots[place] ?? 0) - 1;
    if (number < 0) return -1;
    this.#slots[place] = 0;
    this.#isUsed[number] = 0;
    this.#free.push(number);
    this.#size -= 1;
    this.#closeGap(place);
    return number;
  }

  /** The digest with this number, as a view that is good until the next change; null when there is none. */
  at(number: number): Uint8Array | null {
    return this.#isUsed[number] === 1 ? this.#digests.subarray(number * 32, number * 32 + 32) : null;
  }

  #hash(bytes: Uint8Array, from: number): number {
    let hash = this.#seed;
    for (let at = from; at < from + 32; at += 4) {
      const word = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
      hash = Math.imul(hash ^ word, 0x9e37_79b1);
      hash ^= hash >>> 15;
    }
    return Math.imul(hash ^ (hash >>> 16), 0x85eb_ca6b) >>> 0;
  }

  /** Where the digest stands, or the free place where it would. */
  #place(digest: Uint8Array): number {
    const mask = this.#slots.length - 1;
    let place = this.#hash(digest, 0) & mask;
    for (;;) {
      const number = this.#slots[place]! - 1;
      if (number < 0 || this.#isAt(number, digest)) return place;
      place = (place + 1) & mask;
    }
  }

  #isAt(number: number, digest: Uint8Array): boolean {
    const from = number * 32;
    for (let at = 0; at < 32; at += 1) if (this.#digests[from + at] !== digest[at]) return false;
    return true;
  }

  /** Moves back what had been pushed past the place that is now free. */
  #closeGap(gap: number): void {
    const mask = this.#slots.length - 1;
    for (let place = (gap + 1) & mask; this.#slots[place] !== 0; place = (place + 1) & mask) {
      const home = this.#hash(this.#digests, (this.#slots[place]! - 1) * 32) & mask;
      if (((place - home) & mask) < ((place - gap) & mask)) continue;
      this.#slots[gap] = this.#slots[place]!;
      this.#slots[place] = 0;
      gap = place;
    }
  }

  #grow(): void {
    this.#slots = new Int32Array(this.#slots.length * 2);
    const mask = this.#slots.length - 1;
    for (let number = 0; number < this.#top; number += 1) {
      if (this.#isUsed[number] !== 1) continue;
      let place = this.#hash(this.#digests, number * 32) & mask;
      while (this.#slots[place] !== 0) place = (place + 1) & mask;
      this.#slots[place] = number + 1;
    }
  }

  #growRecords(): void {
    const digests = new Uint8Array(this.#digests.length * 2);
    digests.set(this.#digests);
    this.#digests = digests;
    const isUsed = new Uint8Array(this.#isUsed.length * 2);
    isUsed.set(this.#isUsed);
    this.#isUsed = isUsed;
  }
}
