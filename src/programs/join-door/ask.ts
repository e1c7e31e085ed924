import { connect, type TLSSocket } from 'node:tls';
import type { X509Certificate } from 'node:crypto';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { JoinCode } from '#core/cluster/join-code.ts';
import type { DoorAnswer, DoorQuestion, DoorWelcome } from './messages.ts';

const maxAnswerBytes = 64 << 10;

/**
 * Asks the door of the member that made `code`. Nothing is said before the member has shown a certificate of the authority whose
 * fingerprint the code carries, valid for the address that was called. Raises AppError: unauthenticated (not that cluster, or the code
 * is not good), unavailable, timeout, and what the member refuses with.
 */
export async function askDoor(code: JoinCode, question: Omit<DoorQuestion, 'version' | 'code' | 'role'>): Promise<DoorWelcome> {
  const what = `ask ${code.address}:${code.port} to join its cluster`;
  const socket = connect({ host: code.address, port: code.port, minVersion: 'TLSv1.3', rejectUnauthorized: false });
  const timer = setTimeout(
    () => socket.destroy(new AppError('timeout', `${what}: no answer within ${limits.joinCallMs / 1000} s`)),
    limits.joinCallMs,
  );
  try {
    await untilSecure(socket, what);
    checkMember(socket.getPeerX509Certificate(), code, what);
    const { id, secret } = code;
    const line: DoorQuestion = { version: 1, ...question, code: { id, secret }, role: code.role };
    socket.write(`${JSON.stringify(line)}\n`);
    return takeAnswer(await readAll(socket, what), what);
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}

function untilSecure(socket: TLSSocket, what: string): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once('secureConnect', resolve);
    socket.on('error', (cause) => {
      const advice =
        'the door is open only while a code that was made there is good; check the address and port 7712 between the machines';
      reject(cause instanceof AppError ? cause : new AppError('unavailable', `${what} failed: ${advice}`, { cause }));
    });
  });
}

/** The member's key is proven by the handshake; here its certificate is held against the code. */
function checkMember(shown: X509Certificate | undefined, code: JoinCode, what: string): void {
  const authority = shown?.issuerCertificate;
  const isOurs = authority !== undefined && authority.fingerprint256.replaceAll(':', '').toLowerCase() === code.fingerprint;
  if (shown === undefined || !isOurs || !shown.checkIssued(authority) || !shown.verify(authority.publicKey)) {
    const advice = 'whoever answers there is not of the cluster that made this code; nothing was sent to it';
    throw new AppError('unauthenticated', `${what}: ${advice}`);
  }
  if (shown.checkIP(code.address) === undefined) {
    throw new AppError('unauthenticated', `${what}: the member's certificate is not for ${code.address}; nothing was sent to it`);
  }
}

async function readAll(socket: TLSSocket, what: string): Promise<string> {
  const parts: Buffer[] = [];
  let size = 0;
  try {
    for await (const part of socket as AsyncIterable<Buffer>) {
      parts.push(part);
      size += part.length;
      if (size > maxAnswerBytes) throw new AppError('invalid', `${what}: its answer is too long`);
    }
  } catch (cause) {
    throw cause instanceof AppError ? cause : new AppError('unavailable', `${what}: the connection broke off`, { cause });
  }
  return Buffer.concat(parts).toString('utf8');
}

function takeAnswer(text: string, what: string): DoorWelcome {
  let answer: DoorAnswer;
  try {
    answer = JSON.parse(text) as DoorAnswer;
  } catch (cause) {
    throw new AppError('unavailable', `${what}: it hung up without an answer; wait a minute and try again`, { cause });
  }
  if (answer.ok) return answer;
  throw new AppError(answer.kind, `${what}: ${answer.message}`);
}
