import { AppError } from '#base/error.ts';
import type { QmpEvent } from '#ports/qmp.ts';

/** One line from QEMU, sorted by what it is. Shapes: QEMU docs/interop/qmp-spec. */
export type QmpMessage =
  | { kind: 'greeting' }
  | { kind: 'return'; id: unknown; value: unknown }
  | { kind: 'error'; id: unknown; errorClass: string; text: string }
  | { kind: 'event'; event: QmpEvent };

/** Sorts one line of a QMP stream. Raises AppError invalid when it is no QMP message. */
export function parseQmpMessage(line: string): QmpMessage {
  const message = parseObject(line);
  if ('QMP' in message) return { kind: 'greeting' };
  if (typeof message['event'] === 'string') return { kind: 'event', event: parseEvent(message['event'], message) };
  if ('return' in message) return { kind: 'return', id: message['id'], value: message['return'] };
  if (isRecord(message['error'])) {
    const { class: errorClass, desc } = message['error'];
    return { kind: 'error', id: message['id'], errorClass: String(errorClass), text: String(desc) };
  }
  throw new AppError('invalid', `read QMP: a message that is no greeting, answer or event: ${line.slice(0, 200)}`);
}

function parseObject(line: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new AppError('invalid', `read QMP: a line that is not JSON: ${line.slice(0, 200)}`, { cause });
  }
  if (!isRecord(value)) throw new AppError('invalid', `read QMP: a line that is not an object: ${line.slice(0, 200)}`);
  return value;
}

function parseEvent(name: string, message: Record<string, unknown>): QmpEvent {
  const stamp = isRecord(message['timestamp']) ? message['timestamp'] : {};
  const seconds = Number(stamp['seconds'] ?? 0);
  const microseconds = Number(stamp['microseconds'] ?? 0);
  return {
    event: name,
    data: isRecord(message['data']) ? message['data'] : {},
    timestampMs: seconds * 1000 + Math.floor(microseconds / 1000),
  };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
