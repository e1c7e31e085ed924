import { isAppError, type ErrorKind } from '#base/error.ts';

/** What a call answers. `json`: in the envelope {"data": …, …attributes}. `onSent`: nobody needs the bytes any more. */
export type Reply =
  | { kind: 'json'; data: unknown; attributes?: Record<string, unknown> }
  | { kind: 'bytes'; bytes: Uint8Array; onSent?: () => void }
  | { kind: 'text'; status: number; text: string };
/** `sizeBytes` null: not known before. `close` is to be called once, when all is sent or the other side left. */
export type StreamReply = { kind: 'stream'; content: AsyncIterable<Uint8Array>; sizeBytes: number | null; close(): void };
export type RestReply = Reply | StreamReply;

/** Clients of this protocol know few statuses; what is not listed is a plain 400, as in the original. */
const statuses: Partial<Record<ErrorKind, number>> = {
  missing: 404,
  denied: 403,
  unauthenticated: 401,
  unavailable: 503,
  timeout: 504,
  unsupported: 501,
};

/** The answer to a call that failed. Texts have at least 8 bytes: a known client prints that many, whatever comes. */
export function replyToError(error: unknown): { status: number; text: string } {
  if (!isAppError(error)) return { status: 500, text: 'internal error; the server log has the cause' };
  return { status: statuses[error.kind] ?? 400, text: error.message.padEnd(8) };
}

/** Content type, status and body of a reply. */
export function encodeReply(reply: Reply): {
  status: number;
  contentType: string;
  body: Uint8Array;
} {
  if (reply.kind === 'bytes') return { status: 200, contentType: 'application/octet-stream', body: reply.bytes };
  const contentType = 'application/json;charset=UTF-8'; // also on errors, whose body is plain text
  if (reply.kind === 'text') return { status: reply.status, contentType, body: Buffer.from(reply.text) };
  return { status: 200, contentType, body: Buffer.from(JSON.stringify({ data: reply.data ?? null, ...reply.attributes })) };
}
