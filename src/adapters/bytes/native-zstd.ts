import koffi from 'koffi';

/**
 * The zstd that is part of Node, called directly: that takes two thirds of the time that Node's stream interface takes to decompress. Never
 * the system's library: its calls of itself end in the symbols that Node exports, and contexts of one version are handled by another.
 */
const ownProgram = null;
const pageBytes = 4_096;

type Size = number | bigint;
type Calls = {
  createCompressor(): unknown;
  createDecompressor(): unknown;
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

/** null where Node does not show its zstd. For one thread: its contexts and its room are used again and again. */
export function loadNativeZstd(): NativeZstd | null {
  const calls = loadCalls();
  if (calls === null) return null;
  const contexts = { c: calls.createCompressor(), d: calls.createDecompressor() };
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

/** Fresh memory that begins with a page: what is in it can be written to a disk without another copy. */
export function allocateAligned(bytes: number): Uint8Array {
  const memory = Buffer.allocUnsafeSlow(bytes + pageBytes);
  const skipped = (pageBytes - Number(BigInt(koffi.address(memory)) % BigInt(pageBytes))) % pageBytes;
  return memory.subarray(skipped, skipped + bytes);
}

function loadCalls(): Calls | null {
  const [into, from] = ['uint8_t *room, size_t roomBytes', 'const uint8_t *data, size_t bytes'];
  try {
    const program = koffi.load(ownProgram);
    return {
      createCompressor: program.func('void *ZSTD_createCCtx()') as Calls['createCompressor'],
      createDecompressor: program.func('void *ZSTD_createDCtx()') as Calls['createDecompressor'],
      compressBound: program.func('size_t ZSTD_compressBound(size_t bytes)') as Calls['compressBound'],
      compress: program.func(`size_t ZSTD_compressCCtx(void *context, ${into}, ${from}, int level)`) as Calls['compress'],
      decompress: program.func(`size_t ZSTD_decompressDCtx(void *context, ${into}, ${from})`) as Calls['decompress'],
      isError: program.func('unsigned int ZSTD_isError(size_t code)') as Calls['isError'],
    };
  } catch {
    return null;
  }
}
