import { DigestTable } from '#core/backup/digest-table.ts';

/** The chunks that one writer may refer to. While it is open, and until a collection that saw it open ends, none of them is removed. */
export type Guard = {
  /** From here on the chunk stays. To be called before looking whether it is there. */
  hold(digest: Uint8Array): void;
  /** The chunk is there and may be referred to. */
  know(digest: Uint8Array, sizeBytes: number): void;
  knownSize(digest: Uint8Array): number | null;
  /** The chunk was found bad and set aside. */
  lose(digest: Uint8Array): void;
  holds(digest: Uint8Array): boolean;
  /** Digests that were known here and then set aside. */
  isLost(digest: Uint8Array): boolean;
  readonly lostCount: number;
};

/** All open guards, and those that a running collection has to respect. */
export type Guards = {
  open(): Guard;
  close(guard: Guard): void;
  /** A collection begins: guards that are open now or come later count until `endCollection`, also when they are closed meanwhile. */
  beginCollection(): void;
  endCollection(): void;
  isHeld(digest: Uint8Array): boolean;
  loseEverywhere(digest: Uint8Array): void;
};

export function createGuards(seed: number): Guards {
  const open = new Set<Guard>();
  let retained: Set<Guard> | null = null;
  return {
    open() {
      const guard = createGuard(seed);
      open.add(guard);
      retained?.add(guard);
      return guard;
    },
    close: (guard) => void open.delete(guard),
    beginCollection() {
      retained = new Set(open);
    },
    endCollection() {
      retained = null;
    },
    isHeld(digest) {
      for (const guard of retained ?? open) if (guard.holds(digest)) return true;
      return false;
    },
    loseEverywhere(digest) {
      for (const guard of open) guard.lose(digest);
    },
  };
}

function createGuard(seed: number): Guard {
  const held = new DigestTable(seed);
  const sizes: number[] = [];
  const lost = new DigestTable(seed);
  return {
    hold: (digest) => void held.add(digest),
    know(digest, sizeBytes) {
      sizes[held.add(digest)] = sizeBytes;
      lost.remove(digest);
    },
    knownSize(digest) {
      const number = held.find(digest);
      return number < 0 || lost.has(digest) ? null : (sizes[number] ?? null);
    },
    lose(digest) {
      if (held.has(digest)) lost.add(digest);
    },
    holds: (digest) => held.has(digest),
    isLost: (digest) => lost.has(digest),
    get lostCount() {
      return lost.size;
    },
  };
}
