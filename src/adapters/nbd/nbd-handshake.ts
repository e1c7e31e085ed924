import type { Socket } from 'node:net';
import { AppError } from '#base/error.ts';
import type { ByteReader } from './byte-reader.ts';

/** Numbers of the NBD protocol (doc/proto.md of the NBD project). */
const greetingMagic = 0x4e42444d41474943n; // 'NBDMAGIC'
const optionMagic = 0x49484156454f5054n; // 'IHAVEOPT'
const optionReplyMagic = 0x3e889045565a9n;
const fixedNewstyle = 1;
const option = { go: 7, structuredReply: 8, setMetaContext: 10 } as const;
const reply = { ack: 1, info: 3, metaContext: 4, errorBit: 0x8000_0000 } as const;
const infoExport = 0;
const maxReplyBytes = 64 << 10;

/** What the server says of an export. `hasContext` false: it cannot tell of its extents what was asked. */
export type NbdExport = { sizeBytes: number; flags: number; hasContext: boolean };

export const allocationContext = 'base:allocation';

/** Fixed newstyle negotiation: structured replies, the `context` that extents are to be told in, then the export. Raises AppError. */
export async function negotiate(socket: Socket, reader: ByteReader, exportName: string, context: string): Promise<NbdExport> {
  const greeting = await reader.read(18);
  if (greeting.readBigUInt64BE(0) !== greetingMagic || greeting.readBigUInt64BE(8) !== optionMagic) {
    throw new AppError('unsupported', `NBD export ${exportName}: this is no NBD server`);
  }
  const withoutZeroes = greeting.readUInt16BE(16) & 2;
  const clientFlags = Buffer.alloc(4);
  clientFlags.writeUInt32BE(fixedNewstyle | withoutZeroes);
  socket.write(clientFlags);
  const ask = (code: number, data: Buffer) => askOption(socket, reader, code, data, exportName);

  await ask(option.structuredReply, Buffer.alloc(0));
  const name = Buffer.from(exportName);
  const contexts = await ask(
    option.setMetaContext,
    Buffer.concat([uint32(name.length), name, uint32(1), uint32(context.length), Buffer.from(context)]),
  );
  const infos = await ask(option.go, Buffer.concat([uint32(name.length), name, Buffer.alloc(2)]));
  const info = infos.find((answer) => answer.type === reply.info && answer.data.readUInt16BE(0) === infoExport);
  if (info === undefined) throw new AppError('unsupported', `NBD export ${exportName}: the server did not tell its size`);
  return {
    sizeBytes: Number(info.data.readBigUInt64BE(2)),
    flags: info.data.readUInt16BE(10),
    hasContext: contexts.some((answer) => answer.type === reply.metaContext),
  };
}

async function askOption(socket: Socket, reader: ByteReader, code: number, data: Buffer, exportName: string) {
  const header = Buffer.alloc(16);
  header.writeBigUInt64BE(optionMagic, 0);
  header.writeUInt32BE(code, 8);
  header.writeUInt32BE(data.length, 12);
  socket.write(Buffer.concat([header, data]));
  const answers: { type: number; data: Buffer }[] = [];
  for (;;) {
    const head = await reader.read(20);
    const [type, length] = [head.readUInt32BE(12), head.readUInt32BE(16)];
    if (head.readBigUInt64BE(0) !== optionReplyMagic || head.readUInt32BE(8) !== code || length > maxReplyBytes) {
      throw new AppError('unsupported', `NBD export ${exportName}: the server's answer to option ${code} makes no sense`);
    }
    const body = length === 0 ? Buffer.alloc(0) : Buffer.from(await reader.read(length));
    if (type >= reply.errorBit) {
      throw new AppError('missing', `NBD export ${exportName}: the server refuses option ${code}: ${body.toString() || type}`);
    }
    if (type === reply.ack) return answers;
    answers.push({ type, data: body });
  }
}

function uint32(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32BE(value);
  return buffer;
}
