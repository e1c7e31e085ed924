import type { Socket } from 'node:net';
import { AppError } from '#base/error.ts';
import type { ByteReader } from './byte-reader.ts';

/** Numbers of the NBD protocol (doc/proto.md of the NBD project), the server's side of its negotiation. */
const greetingMagic = 0x4e42444d41474943n; // 'NBDMAGIC'
const optionMagic = 0x49484156454f5054n; // 'IHAVEOPT'
const optionReplyMagic = 0x3e889045565a9n;
const fixedNewstyle = 1;
const withoutZeroes = 2;
const option = { abort: 2, info: 6, go: 7, structuredReply: 8, setMetaContext: 10 } as const;
const reply = { ack: 1, info: 3, unsupported: 0x8000_0001, invalid: 0x8000_0003, unknown: 0x8000_0006 } as const;
const info = { export: 0, blockSize: 3 } as const;
/** There are flags; it is read-only; several connections see the same. */
const transmissionFlags = 1 | 2 | (1 << 8);
const maxOptionBytes = 64 << 10;
const maxOptions = 64;

export type Welcomed<Disk> = { disk: Disk; isStructured: boolean };

/** Fixed newstyle negotiation until the client has chosen a disk. Raises AppError when it leaves or says what nobody understands. */
export async function acceptClient<Disk extends { sizeBytes: number }>(
  socket: Socket,
  reader: ByteReader,
  disks: ReadonlyMap<string, Disk>,
): Promise<Welcomed<Disk>> {
  const greeting = Buffer.alloc(18);
  greeting.writeBigUInt64BE(greetingMagic, 0);
  greeting.writeBigUInt64BE(optionMagic, 8);
  greeting.writeUInt16BE(fixedNewstyle | withoutZeroes, 16);
  socket.write(greeting);
  await reader.read(4); // its flags: whatever it knows, nothing else than the newest style is spoken here
  let isStructured = false;
  for (let asked = 0; asked < maxOptions; asked += 1) {
    const { code, data } = await readOption(reader);
    const say = (type: number, body: Buffer = Buffer.alloc(0)): void => void socket.write(formatReply(code, type, body));
    switch (code) {
      case option.structuredReply:
        isStructured = true;
        say(reply.ack);
        break;
      case option.setMetaContext:
        say(reply.ack); // none of them is known
        break;
      case option.info:
      case option.go: {
        const disk = disks.get(readName(data) ?? '');
        if (disk === undefined) {
          say(readName(data) === null ? reply.invalid : reply.unknown);
          break;
        }
        say(reply.info, describeExport(disk.sizeBytes));
        say(reply.info, describeBlocks());
        say(reply.ack);
        if (code === option.go) return { disk, isStructured };
        break;
      }
      case option.abort:
        say(reply.ack);
        throw new AppError('unavailable', 'NBD client: it left');
      default:
        say(reply.unsupported);
    }
  }
  throw new AppError('invalid', 'NBD client: it goes on asking and chooses nothing');
}

async function readOption(reader: ByteReader): Promise<{ code: number; data: Buffer }> {
  const head = await reader.read(16);
  const bytes = head.readUInt32BE(12);
  if (head.readBigUInt64BE(0) !== optionMagic || bytes > maxOptionBytes)
    throw new AppError('invalid', 'NBD client: what it asks makes no sense');
  const code = head.readUInt32BE(8);
  return { code, data: bytes === 0 ? Buffer.alloc(0) : Buffer.from(await reader.read(bytes)) };
}

/** The disk that is asked for: length, name, how much of what else is asked for. null: it makes no sense. */
function readName(data: Buffer): string | null {
  if (data.length < 6) return null;
  const bytes = data.readUInt32BE(0);
  return bytes + 6 <= data.length ? data.toString('utf8', 4, 4 + bytes) : null;
}

function formatReply(code: number, type: number, body: Buffer): Buffer {
  const head = Buffer.alloc(20);
  head.writeBigUInt64BE(optionReplyMagic, 0);
  head.writeUInt32BE(code, 8);
  head.writeUInt32BE(type, 12);
  head.writeUInt32BE(body.length, 16);
  return Buffer.concat([head, body]);
}

function describeExport(sizeBytes: number): Buffer {
  const body = Buffer.alloc(12);
  body.writeUInt16BE(info.export, 0);
  body.writeBigUInt64BE(BigInt(sizeBytes), 2);
  body.writeUInt16BE(transmissionFlags, 10);
  return body;
}

/** Any byte, best in pages, at most what one answer may hold. */
function describeBlocks(): Buffer {
  const body = Buffer.alloc(14);
  body.writeUInt16BE(info.blockSize, 0);
  body.writeUInt32BE(1, 2);
  body.writeUInt32BE(4096, 6);
  body.writeUInt32BE(32 << 20, 10);
  return body;
}
