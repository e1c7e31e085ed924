import { AppError } from '#base/error.ts';

/** What a request brings along to say who it is. */
export type Credentials =
  | { kind: 'none' }
  | { kind: 'token'; id: string; secret: string }
  /** `csrf`: needed for everything that is no GET. */
  | { kind: 'ticket'; ticket: string; csrf: string | null };

/** A keyed hash whose key stays with the caller. */
export type Sign = (text: string) => string;

export const ticketTimes = { lifeSeconds: 7_200, skewSeconds: 300 } as const;

/** Reads the headers that matter. Raises AppError unauthenticated for those that are malformed. */
export function readCredentials(headers: {
  authorization?: string;
  cookie?: string;
  csrfpreventiontoken?: string | string[];
}): Credentials {
  // One byte between the scheme and the token: the original sends a space, others `=`.
  const token = /^PBSAPIToken[ =]([^:]+):(.+)$/.exec(headers.authorization ?? '');
  if (token !== null) return { kind: 'token', id: token[1] ?? '', secret: decode(token[2] ?? '') };
  const cookie = /(?:^|;\s*)(?:__Host-)?PBSAuthCookie=([^;]+)/.exec(headers.cookie ?? '');
  if (cookie === null) return { kind: 'none' };
  const csrf = headers.csrfpreventiontoken;
  return { kind: 'ticket', ticket: decode(cookie[1] ?? ''), csrf: typeof csrf === 'string' ? csrf : null };
}

/** `PBS:user@realm:HEXTIME::SIGNATURE`. */
export function makeTicket(user: string, nowSeconds: number, sign: Sign): string {
  const head = `PBS:${user}:${hexTime(nowSeconds)}`;
  return `${head}::${sign(head)}`;
}

/** The user of a ticket that is genuine and not too old; null otherwise. */
export function readTicket(
  ticket: string,
  nowSeconds: number,
  sign: Sign,
  isSame: (a: string, b: string) => boolean,
): string | null {
  const parts = /^(PBS:([^:\s]+@[^:\s]+):([0-9A-F]{8,16}))::(.+)$/.exec(ticket);
  if (parts === null || !isSame(sign(parts[1] ?? ''), parts[4] ?? '')) return null;
  return isFresh(parts[3] ?? '', nowSeconds) ? (parts[2] ?? null) : null;
}

/** `HEXTIME:SIGNATURE`, for one user. */
export function makeCsrfToken(user: string, nowSeconds: number, sign: Sign): string {
  const time = hexTime(nowSeconds);
  return `${time}:${sign(`csrf:${time}:${user}`)}`;
}

export function isCsrfToken(
  token: string,
  user: string,
  nowSeconds: number,
  sign: Sign,
  isSame: (a: string, b: string) => boolean,
): boolean {
  const parts = /^([0-9A-F]{8,16}):(.+)$/.exec(token);
  return parts !== null && isFresh(parts[1] ?? '', nowSeconds) && isSame(sign(`csrf:${parts[1]}:${user}`), parts[2] ?? '');
}

function isFresh(hex: string, nowSeconds: number): boolean {
  const age = nowSeconds - Number.parseInt(hex, 16);
  return age >= -ticketTimes.skewSeconds && age <= ticketTimes.lifeSeconds;
}

function hexTime(seconds: number): string {
  return Math.floor(seconds).toString(16).toUpperCase().padStart(8, '0');
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch (cause) {
    throw new AppError('unauthenticated', 'the credentials are not percent-encoded as they should be', { cause });
  }
}
