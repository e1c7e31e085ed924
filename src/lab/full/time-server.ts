import { createSocket } from 'node:dgram';
import { once } from 'node:events';

/** Seconds between NTP's epoch (1900) and Unix's. */
const epochShiftSeconds = 2_208_988_800;
const packetBytes = 48;

/** An answer to a client of the network time protocol (RFC 5905, client/server mode, version 4), from this host's clock. */
export function formatTimeAnswer(question: Uint8Array, receivedAtMs: number, sentAtMs: number): Uint8Array {
  const answer = new Uint8Array(packetBytes);
  const view = new DataView(answer.buffer);
  // No leap second is announced, version as asked, server; stratum 1, the client's poll, precision of a millisecond.
  view.setUint8(0, ((question[0] ?? 0) & 0x38) | 4);
  view.setUint8(1, 1);
  view.setUint8(2, question[2] ?? 0);
  view.setInt8(3, -10);
  answer.set(new TextEncoder().encode('HOST'), 12);
  writeStamp(view, 16, receivedAtMs);
  answer.set(question.subarray(40, 48), 24);
  writeStamp(view, 32, receivedAtMs);
  writeStamp(view, 40, sentAtMs);
  return answer;
}

function writeStamp(view: DataView, at: number, wallMs: number): void {
  view.setUint32(at, Math.floor(wallMs / 1000) + epochShiftSeconds);
  view.setUint32(at + 4, Math.floor(((wallMs % 1000) / 1000) * 2 ** 32));
}

/** Serves the time on UDP 123 of `address`, so that the machines' clocks and this host's are one; ends with the process. */
export async function startTimeServer(address: string): Promise<void> {
  const socket = createSocket('udp4');
  socket.on('message', (question, sender) => {
    if (question.byteLength < packetBytes) return;
    const nowMs = Date.now();
    socket.send(formatTimeAnswer(question, nowMs, Date.now()), sender.port, sender.address);
  });
  socket.bind(123, address);
  await once(socket, 'listening');
  socket.unref();
}
