import { type MessageInitShape, create } from '@bufbuild/protobuf';
import { AppError } from '#base/error.ts';
import type { Compare, StoreEntry, Write } from '#ports/store.ts';
import {
  type CompareSchema,
  Compare_CompareResult,
  Compare_CompareTarget,
  type Event,
  Event_EventType,
  type KeyValue,
  type RangeRequest,
  RangeRequestSchema,
  type RequestOpSchema,
  type TxnRequest,
  TxnRequestSchema,
} from './gen/etcd_pb.js';

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export function encodeText(text: string): Uint8Array {
  return encoder.encode(text);
}

/** First and end key of all keys under `prefix`; the empty prefix means every key. */
export function encodePrefix(prefix: string): { key: Uint8Array; rangeEnd: Uint8Array } {
  const key = encoder.encode(prefix);
  // UTF-8 has no byte 0xff, so the last byte can always be raised by one.
  const rangeEnd = key.slice();
  if (rangeEnd.length === 0) return { key: new Uint8Array(1), rangeEnd: new Uint8Array(1) };
  rangeEnd[rangeEnd.length - 1]! += 1;
  return { key, rangeEnd };
}

export function formatReadRequest(key: string): RangeRequest {
  return create(RangeRequestSchema, { key: encodeText(key) });
}

export function formatListRequest(prefix: string): RangeRequest {
  return create(RangeRequestSchema, encodePrefix(prefix));
}

/** Raises AppError invalid when a key is written twice: etcd has no order inside one revision. */
export function formatCommitRequest(compares: Compare[], writes: Write[]): TxnRequest {
  const written = new Set<string>();
  for (const { key } of writes) {
    if (written.has(key)) throw new AppError('invalid', `commit: ${key} is written twice in one commit`);
    written.add(key);
  }
  return create(TxnRequestSchema, { compare: compares.map(formatCompare), success: writes.map(formatWrite) });
}

function formatCompare({ key, modRevision }: Compare): MessageInitShape<typeof CompareSchema> {
  return {
    key: encodeText(key),
    result: Compare_CompareResult.EQUAL,
    target: Compare_CompareTarget.MOD,
    targetUnion: { case: 'modRevision', value: modRevision },
  };
}

function formatWrite({ key, value }: Write): MessageInitShape<typeof RequestOpSchema> {
  if (value === null) return { request: { case: 'requestDeleteRange', value: { key: encodeText(key) } } };
  return { request: { case: 'requestPut', value: { key: encodeText(key), value: encodeText(value) } } };
}

export function parseEntry(kv: KeyValue): StoreEntry {
  return { key: decoder.decode(kv.key), value: decoder.decode(kv.value), modRevision: kv.modRevision };
}

/** `revision`: of the write or of the deletion. */
export function parseChange(event: Event): { key: string; entry: StoreEntry | null; revision: bigint } {
  if (event.kv === undefined) throw new AppError('invalid', 'etcd sent an event without a key');
  const entry = parseEntry(event.kv);
  return { key: entry.key, entry: event.type === Event_EventType.DELETE ? null : entry, revision: entry.modRevision };
}
