import { AppError } from '#base/error.ts';

/** Compressions a Debian kernel may use, by the first bytes of its payload, and the command that undoes each. */
const decompressors: { magic: number[]; command: string; args: string[] }[] = [
  { magic: [0x02, 0x21, 0x4c, 0x18], command: 'lz4', args: ['-dc'] },
  { magic: [0x28, 0xb5, 0x2f, 0xfd], command: 'zstd', args: ['-dcq'] },
  { magic: [0xfd, 0x37, 0x7a, 0x58], command: 'xz', args: ['-dcq', '--single-stream'] },
  { magic: [0x1f, 0x8b], command: 'gzip', args: ['-dcq'] },
];

/** Offsets in the setup header, from the kernel's Documentation/arch/x86/boot.rst. */
const header = { setupSectors: 0x1f1, magic: 0x202, version: 0x206, payloadOffset: 0x248, payloadLength: 0x24c };
const sectorBytes = 512;
/** The build appends the size of the uncompressed kernel, 4 bytes, to the payload. */
const sizeTrailerBytes = 4;

export type KernelPayload = { compressed: Uint8Array; uncompressedBytes: number; command: string; args: string[] };

/**
 * Cuts the compressed kernel out of a bzImage by its setup header, and says which command undoes the compression. Raises AppError
 * unsupported when the file is not a bzImage of boot protocol 2.08 or later, or the compression is not known.
 */
export function cutKernelPayload(bzImage: Uint8Array): KernelPayload {
  const view = new DataView(bzImage.buffer, bzImage.byteOffset, bzImage.byteLength);
  const isBzImage = bzImage.byteLength > 0x250 && view.getUint32(header.magic, true) === 0x53726448; // "HdrS"
  if (!isBzImage || view.getUint16(header.version, true) < 0x208) {
    throw new AppError('unsupported', 'cutting the kernel out of its image: it is not a bzImage with a payload offset');
  }
  const setupSectors = view.getUint8(header.setupSectors) || 4;
  const start = (setupSectors + 1) * sectorBytes + view.getUint32(header.payloadOffset, true);
  const end = start + view.getUint32(header.payloadLength, true);
  if (end > bzImage.byteLength || end - start <= sizeTrailerBytes) {
    throw new AppError(
      'unsupported',
      `cutting the kernel out of its image: its header says bytes ${start} to ${end} of ${bzImage.byteLength}`,
    );
  }
  const compressed = bzImage.subarray(start, end - sizeTrailerBytes);
  const found = decompressors.find(({ magic }) => magic.every((byte, i) => compressed[i] === byte));
  if (found === undefined) {
    const first = Buffer.from(compressed.subarray(0, 4)).toString('hex');
    throw new AppError('unsupported', `cutting the kernel out of its image: unknown compression that begins with ${first}`);
  }
  return {
    compressed,
    uncompressedBytes: view.getUint32(end - sizeTrailerBytes, true),
    command: found.command,
    args: found.args,
  };
}
