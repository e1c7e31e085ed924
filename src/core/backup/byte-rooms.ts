const mebibyte = 1024 * 1024;
/** Rooms that are kept for the next bodies: those of sixteen chunks of an image, which is what clients have under way. */
const mostSpare = 16;

/** Memory for bodies of requests: what they were, other threads can look at, and the next body gets it again. */
export type BodyRooms = {
  /** `bytes` long, filled with anything. */
  take(bytes: number): Buffer;
  /** Nobody looks at it any more. */
  give(room: Buffer): void;
};

/** Fresh memory for every chunk makes the collector run after every few, and that costs more than all the rest of an upload. */
export function createBodyRooms(): BodyRooms {
  const spare: SharedArrayBuffer[] = [];
  return {
    take(bytes) {
      const at = spare.findIndex(({ byteLength }) => byteLength >= bytes);
      const memory = at < 0 ? new SharedArrayBuffer(Math.ceil(bytes / mebibyte) * mebibyte) : spare.splice(at, 1)[0]!;
      return Buffer.from(memory, 0, bytes);
    },
    give({ buffer }) {
      if (buffer instanceof SharedArrayBuffer && spare.length < mostSpare) spare.push(buffer);
    },
  };
}
