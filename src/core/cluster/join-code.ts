import { AppError } from '#base/error.ts';

/**
 * A join code is what an operator carries from a member to a new machine:
 *
 *     hf1-KIND-ID-SECRET-FINGERPRINT-EXPIRY-PORT-ADDRESS-CHECK
 *
 * KIND n (node) or w (witness); ID 8, SECRET 32 and FINGERPRINT 64 hexadecimal digits (the fingerprint is SHA-256 over the
 * certificate of the cluster's authority); EXPIRY seconds since 1970, for words only: the member judges; CHECK finds typing errors.
 */
export type JoinCode = {
  role: ClusterRole;
  id: string;
  secret: string;
  fingerprint: string;
  expiresAtMs: number;
  address: string;
  port: number;
};

export type ClusterRole = 'node' | 'witness';

const letters: Record<ClusterRole, string> = { node: 'n', witness: 'w' };
const pattern = /^hf1-([nw])-([0-9a-f]{8})-([0-9a-f]{32})-([0-9a-f]{64})-(\d{1,12})-(\d{1,5})-([0-9a-fA-F.:]+)-([0-9a-f]{4})$/;

/** The code as text. */
export function formatJoinCode(code: JoinCode): string {
  const seconds = Math.floor(code.expiresAtMs / 1_000);
  const parts = ['hf1', letters[code.role], code.id, code.secret, code.fingerprint, seconds, code.port, code.address];
  const text = parts.join('-');
  return `${text}-${checkDigits(text)}`;
}

/** Reads a code as it was typed or pasted. Raises AppError invalid; the message does not repeat the code. */
export function parseJoinCode(typed: string): JoinCode {
  const text = typed.replaceAll(/\s+/g, '');
  const match = pattern.exec(text);
  if (match === null)
    throw new AppError('invalid', 'code: this is not a join code; make one on a member with: holdfast join-code');
  const [, letter, id, secret, fingerprint, seconds, port, address, check] = match as unknown as string[];
  if (checkDigits(text.slice(0, -5)) !== check) {
    throw new AppError('invalid', 'code: a letter of it is wrong or missing; copy it again, whole');
  }
  const role = letter === 'w' ? 'witness' : 'node';
  return {
    role,
    id: id!,
    secret: secret!,
    fingerprint: fingerprint!,
    expiresAtMs: Number(seconds) * 1_000,
    port: Number(port),
    address: address!,
  };
}

/** 16 bits of FNV-1a: against typing errors, not against anybody. */
function checkDigits(text: string): string {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index += 1) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193) >>> 0;
  return ((hash >>> 16) ^ (hash & 0xffff)).toString(16).padStart(4, '0');
}
