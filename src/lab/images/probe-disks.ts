import { closeSync, fstatSync, openSync, readSync } from 'node:fs';

/**
 * The host-side reading of a probe guest's disks. The writer is src/lab/guests/probe.c; the format is theirs together.
 *
 *   disk A (data):    slots of 4 KiB, as many as the largest power of two that fits. Block i (from 1) lies in slot
 *                     ((i - 1) * 40503) mod slots, so neighbours in time are not neighbours on disk; block i + slots overwrites block i.
 *   disk B (counter): two records of 4 KiB used in turn (number mod 2), so that a torn write never loses the number before it.
 *
 * Order of writing: block n+1, flush, number n+1, flush. A pair is CONSISTENT when B says n and every slot of A holds exactly what the
 * sequence 1..n last put there; the slot of n+1 may also hold block n+1, or a mix of old and new by whole sectors.
 */
export type ProbeVerdict = { consistent: boolean; counter: number; generation: number; detail: string };

const blockBytes = 4096;
const sectorBytes = 512;
const slotStride = 40503;
const blockMagic = 0x42504648;
const counterMagic = 0x43504648;
const readBlocks = 256;

/** Avalanche of 32 bits; the same constants as `mix` in probe.c. */
function mix(value: number): number {
  let x = value >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

/** Content of block `index` of the sequence: 4096 bytes; all zero for index 0 (a slot never written). */
export function makeProbeBlock(index: number): Uint8Array {
  const words = new Uint32Array(blockBytes / 4);
  if (index === 0) return new Uint8Array(words.buffer);
  const high = Math.floor(index / 2 ** 32);
  let state = mix((index ^ mix(high + 0x9e3779b9)) >>> 0) | 1;
  words.set([blockMagic, index >>> 0, high]);
  for (let i = 3; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  return new Uint8Array(words.buffer);
}

/** Slot of block `index` (from 1) on a data disk of `slots` slots. */
export function probeSlot(index: number, slots: number): number {
  return ((index - 1) * slotStride) % slots;
}

/** How many slots a data disk of `sizeBytes` has. */
export function probeSlots(sizeBytes: number): number {
  return 2 ** Math.floor(Math.log2(sizeBytes / blockBytes));
}

/** One record of the counter disk; null when it is empty or torn. */
export function decodeCounterRecord(bytes: Uint8Array): { counter: number; generation: number } | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0, true) !== counterMagic) return null;
  let sum = counterMagic;
  for (let i = 0; i < 8; i++) sum = mix(sum ^ view.getUint32(8 + i * 4, true));
  if (sum !== view.getUint32(4, true)) return null;
  return { counter: Number(view.getBigUint64(8, true)), generation: Number(view.getBigUint64(16, true)) };
}

/** One record of the counter disk, as probe.c writes it. */
export function encodeCounterRecord(counter: number, generation: number): Uint8Array {
  const bytes = new Uint8Array(blockBytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, counterMagic, true);
  view.setBigUint64(8, BigInt(counter), true);
  view.setBigUint64(16, BigInt(generation), true);
  let sum = counterMagic;
  for (let i = 0; i < 8; i++) sum = mix(sum ^ view.getUint32(8 + i * 4, true));
  view.setUint32(4, sum, true);
  return bytes;
}

/** The index that the sequence 1..last put into each slot last; 0: none. */
function expectedIndexes(last: number, slots: number): Float64Array {
  const expected = new Float64Array(slots);
  for (let index = Math.max(1, last - slots + 1); index <= last; index++) expected[probeSlot(index, slots)] = index;
  return expected;
}

function isMixOf(found: Uint8Array, first: Uint8Array, second: Uint8Array): boolean {
  for (let at = 0; at < blockBytes; at += sectorBytes) {
    const sector = Buffer.from(found.buffer, found.byteOffset + at, sectorBytes);
    if (!sector.equals(first.subarray(at, at + sectorBytes)) && !sector.equals(second.subarray(at, at + sectorBytes)))
      return false;
  }
  return true;
}

/** What a wrong slot holds, in words. */
function describeSlot(found: Uint8Array, slot: number, expected: number): string {
  const view = new DataView(found.buffer, found.byteOffset, found.byteLength);
  const index = view.getUint32(4, true) + view.getUint32(8, true) * 2 ** 32;
  const whole = view.getUint32(0, true) === blockMagic && Buffer.from(makeProbeBlock(index)).equals(found);
  const isZero = found.every((byte) => byte === 0);
  const holds = whole ? `block ${index}` : isZero ? 'nothing' : 'a torn or foreign block';
  return `slot ${slot} should hold ${expected === 0 ? 'nothing' : `block ${expected}`} but holds ${holds}`;
}

type Reader = { sizeBytes: number; read: (at: number, length: number) => Uint8Array };

function withFile<T>(path: string, use: (reader: Reader) => T): T {
  const fd = openSync(path, 'r');
  try {
    const read = (at: number, length: number): Uint8Array => {
      const buffer = Buffer.alloc(length);
      for (let done = 0; done < length;) {
        const count = readSync(fd, buffer, done, length - done, at + done);
        if (count === 0) break;
        done += count;
      }
      return buffer;
    };
    return use({ sizeBytes: fstatSync(fd).size, read });
  } finally {
    closeSync(fd);
  }
}

/** Newest whole number on the counter disk; 0 when none was written. */
function readCounter(path: string): { counter: number; generation: number } {
  return withFile(path, (file) => {
    const records = [0, 1].map((slot) => decodeCounterRecord(file.read(slot * blockBytes, blockBytes)));
    const newest = records.filter((record) => record !== null).toSorted((a, b) => b.counter - a.counter)[0];
    return newest ?? { counter: 0, generation: 0 };
  });
}

/**
 * Says whether two raw images are a state a probe guest could have been in: disk A (data) and disk B (counter). `detail` names the first slot
 * that is wrong and how many are. Reads the whole of A (64 MiB takes about 0.3 s).
 */
export function checkProbeDisks(dataPath: string, counterPath: string): ProbeVerdict {
  const { counter, generation } = readCounter(counterPath);
  const wrong = withFile(dataPath, (file) => {
    const slots = probeSlots(file.sizeBytes);
    return findWrongSlots(file, slots, counter);
  });
  const detail = wrong.length === 0 ? `all slots hold the sequence 1..${counter}` : `${wrong.length} wrong: ${wrong[0]}`;
  return { consistent: wrong.length === 0, counter, generation, detail };
}

function findWrongSlots(file: Reader, slots: number, last: number): string[] {
  const expected = expectedIndexes(last, slots);
  const inFlight = probeSlot(last + 1, slots);
  const wrong: string[] = [];
  for (let from = 0; from < slots; from += readBlocks) {
    const chunk = file.read(from * blockBytes, readBlocks * blockBytes);
    for (let slot = from; slot < Math.min(from + readBlocks, slots); slot++) {
      const found = chunk.subarray((slot - from) * blockBytes, (slot - from + 1) * blockBytes);
      const index = expected[slot] ?? 0;
      const old = makeProbeBlock(index);
      if (Buffer.from(old.buffer).equals(found)) continue;
      if (slot === inFlight && isMixOf(found, old, makeProbeBlock(last + 1))) continue;
      wrong.push(describeSlot(found, slot, index));
    }
  }
  return wrong;
}
