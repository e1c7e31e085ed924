import koffi from 'koffi';

/** Debian's zstd. Called directly it takes two thirds of the time that Node's stream interface takes to decompress. */
const libraryName = 'libzstd.so.1';

type Size = number | bigint;
type Calls = {
  compressBound(bytes: number): Size;
  compress(context: unknown, room: Uint8Array, roomBytes: number, data: Uint8Array, bytes: number, level: number): Size;
  decompress(context: unknown, room: Uint8Array, roomBytes: number, data: Uint8Array, bytes: number): Size;
  isError(code: Size): number;
};

export type NativeZstd = {
  compress(data: Uint8Array, level: number): Uint8Array;
  /** Answers how many bytes of `room` were filled; -1: not Zstandard, damaged, or longer than `room`. */
  decompressInto(room: Uint8Array, data: Uint8Array): number;
};

/** null where the library is not installed. For one thread: its contexts and its room are used again and again. */
export function loadNativeZstd(): NativeZstd | null {
  let library: ReturnType<typeof koffi.load>;
  try {
    library = koffi.load(libraryName);
  } catch {
    return null;
  }
  const contexts = {
    c: library.func('void *ZSTD_createCCtx()')() as unknown,
    d: library.func('void *ZSTD_createDCtx()')() as unknown,
  };
  const [into, from] = ['uint8_t *room, size_t roomBytes', 'const uint8_t *data, size_t bytes'];
  const calls: Calls = {
    compressBound: library.func('size_t ZSTD_compressBound(size_t bytes)') as Calls['compressBound'],
    compress: library.func(`size_t ZSTD_compressCCtx(void *context, ${into}, ${from}, int level)`) as Calls['compress'],
    decompress: library.func(`size_t ZSTD_decompressDCtx(void *context, ${into}, ${from})`) as Calls['decompress'],
    isError: library.func('unsigned int ZSTD_isError(size_t code)') as Calls['isError'],
  };
  let scratch = new Uint8Array();
  return {
    compress(data, level) {
      const bound = Number(calls.compressBound(data.length));
      if (scratch.length < bound) scratch = Buffer.allocUnsafeSlow(bound);
      const bytes = calls.compress(contexts.c, scratch, scratch.length, data, data.length, level);
      if (calls.isError(bytes) !== 0) throw new Error('zstd could not compress into a room of its own bound');
      return scratch.slice(0, Number(bytes));
    },
    decompressInto(room, data) {
      const bytes = calls.decompress(contexts.d, room, room.length, data, data.length);
      return calls.isError(bytes) === 0 ? Number(bytes) : -1;
    },
  };
}
