const mebibyte = 1024 * 1024;
/** Rooms that are kept for those who come next: as many as a client has chunks under way, and some. */
const mostSpare = 20;

/** Memory for chunks on their way: other threads can look at what is in it, and the next chunk gets it again. */
export type ByteRooms = {
  /** `bytes` long, filled with anything. */
  take(bytes: number): Uint8Array;
  /** Nobody looks at it any more. */
  give(room: Uint8Array): void;
};

/** Fresh memory for every chunk makes the collector run after every few, and that costs more than to decompress them. */
export function createByteRooms(): ByteRooms {
  const spare: SharedArrayBuffer[] = [];
  return {
    take(bytes) {
      const at = spare.findIndex(({ byteLength }) => byteLength >= bytes);
      const memory = at < 0 ? new SharedArrayBuffer(Math.ceil(bytes / mebibyte) * mebibyte) : spare.splice(at, 1)[0]!;
      return new Uint8Array(memory, 0, bytes);
    },
    give({ buffer }) {
      if (buffer instanceof SharedArrayBuffer && spare.length < mostSpare) spare.push(buffer);
    },
  };
}
